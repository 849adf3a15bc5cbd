r"""How long a table takes on a cluster that nobody has to have: its cells, dealt over GPUs as Slurm and Ray
get them, each as long as measured costs say.

What is measured are the methods' costs per training example and per answered example, at full size, on the
machine that ``attngraph bench`` ran on (:mod:`experiments.bench.methods`). What is assumed is how much faster
a GPU is: a factor for all, by the floating-point operations of the baseline's training step,

.. math::
    t_{GPU} = t_{measured} \cdot
    \frac{\text{operations of the baseline} / \text{operations per second of the GPU}}
         {\text{measured seconds of the baseline}} .

So the ratios between methods are the measured ones, and those between models the ones of their operations.
Two models stand for the main table's: BLIP-base, and mPLUG with ViT-B/16 where that was measured
(:data:`MEASURED`). Where pictures are read and changed in training, an
example takes at least its share of the time of the processes that read (:data:`READ`). A cell takes

.. math::
    t = t_{start} + \text{steps} \cdot \text{batch} \cdot t_{train} + \text{scored} \cdot t_{answer} .
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from experiments.arguments import Between
from experiments.launchers.shared import longest_first
from experiments.methods import method_named
from experiments.models.loading import type_of
from experiments.tasks.kinds import Captions
from experiments.training.cells import Cell
from experiments.training.loading import MOST
from experiments.training.plan import Plan, example_count

RESULTS = Path(__file__).parents[1] / "results" / "bench"
BLIP, MPLUG = "blip", "mplug"  # types of models
MEASURED = {BLIP: "methods", MPLUG: "methods-mplug"}  # the benchmark of each, and its file in a folder
TITLES = {BLIP: "BLIP-base", MPLUG: "mPLUG ViT-B"}
FORM = 2  # of these files
PEAK, UTILISATION = 312e12, 0.2  # operations per second of an A100 in bfloat16, and the share that is reached
#: Processor seconds to read a JPEG picture of 640 x 480, crop it to 224, distort and normalise it, measured
#: on an AMD EPYC; :data:`experiments.training.loading.MOST` processes do it beside a run.
READ = 0.0065
START = 60.0  # seconds until a cell trains: libraries, model, annotations
COUNTS = (8, 64)  # GPUs that are always shown
MOST_GPUS = 100_000


@dataclass(frozen=True)
class Costs:
    """What examples cost on the machine where that was measured.

    Args:
        seconds: method -> ``vqa`` or ``caption`` -> ``train`` or ``answer`` -> seconds for an example.
        baseline: the method whose operations say how much faster a GPU is.
        operations: of its training step on captions, for an example.
        where: the machine, in words.
        on_gpu: whether it was a GPU; times are then taken as they are.
        title: of the model.
    """

    seconds: Mapping[str, Mapping[str, Mapping[str, float]]]
    baseline: str
    operations: float
    where: str
    on_gpu: bool = False
    title: str = TITLES[BLIP]

    def factor(self, speed: float) -> float:
        """Measured seconds times this are seconds on a GPU with so many operations per second."""
        if self.on_gpu:
            return 1.0
        return self.operations / speed / self.seconds[self.baseline]["caption"]["train"]

    def method(self, name: str) -> str:
        """The measured method that a method's costs are taken from: itself, or the dearest one that is no
        full fine-tuning.
        """
        if name in self.seconds:
            return name
        others = [other for other in self.seconds if other not in ("full", "decoder")]
        return max(others, key=lambda other: self.seconds[other]["caption"]["train"])


def read_costs(model: str = BLIP, folder: Path = RESULTS) -> Costs:
    """The costs that ``attngraph bench --only methods`` (or ``methods-mplug``) has measured.

    Args:
        model: one of :data:`MEASURED`.
        folder: with the file.

    Raises:
        UserError: they are missing, or damaged.
    """
    name = MEASURED[model]
    file = folder / f"{name}.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["form"] != FORM:
            raise ValueError(f"form {content['form']}")
        if (measured := content.get("options", {}).get("model", BLIP)) != model:
            raise ValueError(f"it is of the model {measured}")
        on_gpu = str(content["device"]).startswith("cuda")
        # Processor time is what a step would take on an idle machine.
        unit = "seconds_per_example" if on_gpu or content["threads"] != 1 else "cpu_seconds_per_example"
        seconds = {
            name: {
                task: {what: _positive(about["tasks"][task][what][unit]) for what in ("train", "answer")}
                for task in ("vqa", "caption")
            }
            for name, about in content["methods"].items()
        }
        base = content["methods"][content["baseline"]]["tasks"]["caption"]["train"]
        where = f"{content['device_name']} ({content['device']})"
        flops = _positive(base["flops_per_example"])
        return Costs(seconds, content["baseline"], flops, where, on_gpu, TITLES[model])
    except FileNotFoundError:
        raise UserError(f"{file} is missing: measure it with `attngraph bench --only {name}`") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{file} cannot be read ({type(error).__name__}: {error}): measure it again with `attngraph "
            f"bench --only {name}`"
        ) from None


def _positive(number: Any) -> float:
    if not 0 < float(number) < math.inf:
        raise ValueError(f"{number} is no time")
    return float(number)


def add_gpu_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a command that can simulate a cluster."""
    parser.add_argument(
        "--gpus",
        type=Between(1, MOST_GPUS),
        metavar="N",
        help="Compute how long the runs would take on so many GPUs, with --dry-run.",
    )
    parser.add_argument(
        "--gpu-teraflops",
        type=float,
        metavar="SPEED",
        help="Take a GPU to do so many 10^12 operations per second, with --gpus. Default: "
        f"{PEAK * UTILISATION / 1e12:.0f}, {UTILISATION:.0%} of an A100's peak.".replace("%", "%%"),
    )


def check_gpu_arguments(args: argparse.Namespace) -> None:
    """Raise UserError where these options are out of range, or change nothing."""
    if args.gpus is not None and not args.dry_run:
        raise UserError(f"--gpus {args.gpus} simulates GPUs: give --dry-run too, or leave it out")
    if args.gpu_teraflops is not None:
        if not 0 < args.gpu_teraflops < math.inf:
            raise UserError(f"--gpu-teraflops must be above 0, got {args.gpu_teraflops:g}")
        if args.gpus is None:
            raise UserError(
                f"--gpu-teraflops {args.gpu_teraflops:g} changes nothing without --gpus: leave it out"
            )


def cell_seconds(cell: Cell, scored: int, is_caption: bool, costs: Costs, speed: float) -> float:
    """How long a cell takes on a GPU.

    Args:
        cell: which.
        scored: examples that it answers.
        is_caption: whether it writes captions; else it answers questions from a list.
        costs: measured ones.
        speed: operations per second of the GPU.
    """
    each = costs.seconds[costs.method(cell.method)]["caption" if is_caption else "vqa"]
    seconds = START + scored * costs.factor(speed) * each["answer"]
    if cell.recipe is not None:
        train = costs.factor(speed) * each["train"]
        example = READ / MOST if waits_for_pictures(cell, is_caption, costs, speed) else train
        seconds += cell.recipe.steps * cell.recipe.batch_size * example
    return seconds


def waits_for_pictures(cell: Cell, is_caption: bool, costs: Costs, speed: float) -> bool:
    """Whether reading and changing an example's picture takes longer than training on it."""
    train = costs.seconds[costs.method(cell.method)]["caption" if is_caption else "vqa"]["train"]
    return cell.recipe is not None and cell.recipe.augment and costs.factor(speed) * train < READ / MOST


def dealt(seconds: Sequence[float], machines: int) -> list[float]:
    """When each cell has ended, where every cell goes, in order, to the machine that is free first."""
    free = [0.0] * min(machines, len(seconds))
    ends = []
    for time in seconds:
        ends.append(heapq.heappop(free) + time)
        heapq.heappush(free, ends[-1])
    return ends


@dataclass(frozen=True)
class Simulation:
    """A table's cells on GPUs.

    Args:
        rows: row -> seconds of its cells, in the order in which they begin on a cluster.
        seconds: of all cells of all models, likewise.
        longest: the longest cell, in words.
        waiting: how many cells wait for pictures while they train.
    """

    rows: Mapping[str, Sequence[float]]
    seconds: Sequence[float]
    longest: str
    waiting: int

    def makespan(self, gpus: int) -> float:
        """Seconds until all cells have ended."""
        return max(dealt(self.seconds, gpus))

    def efficiency(self, gpus: int) -> float:
        """The share of the time that GPUs work in."""
        return sum(self.seconds) / (gpus * self.makespan(gpus))


def simulate(plan: Plan, models: Sequence[Costs], speed: float) -> Simulation:
    """A table's cells with their times.

    Args:
        plan: the table.
        models: the costs of each model that runs all of it.
        speed: operations per second of a GPU.
    """
    counts = {
        (cell.task, cell.split): example_count(
            plan.tasks[cell.task], cell.split, plan.sizes, cell.data, cell.skip_bad
        )
        for cell in plan.cells
    }
    is_caption = {cell: isinstance(plan.tasks[cell.task], Captions) for cell in plan.cells}
    times = [
        {
            cell: cell_seconds(
                cell,
                min(cell.eval_examples or counts[cell.task, cell.split], counts[cell.task, cell.split]),
                is_caption[cell],
                costs,
                speed,
            )
            for cell in plan.cells
        }
        for costs in models
    ]
    longest = max(plan.cells, key=lambda cell: max(time[cell] for time in times))
    waiting = sum(
        waits_for_pictures(cell, is_caption[cell], costs, speed) for cell in plan.cells for costs in models
    )
    rows = {row: _dealt_out(cells, times) for row, cells in plan.rows.items()}
    return Simulation(rows, _dealt_out(plan.cells, times), longest.name, waiting)


def _dealt_out(cells: Sequence[Cell], times: Sequence[Mapping[Cell, float]]) -> list[float]:
    return [time[cell] for cell in longest_first(cells) for time in times]


def simulation_text(plan: Plan, gpus: int, teraflops: float | None = None, folder: Path = RESULTS) -> str:
    """What ``--dry-run --gpus N`` prints: hours for each row, and for all rows on some numbers of GPUs.

    Args:
        plan: the table.
        gpus: GPUs of the cluster.
        teraflops: that a GPU is taken to do in a second, in 10^12 operations; None for :data:`PEAK` times
            :data:`UTILISATION`.
        folder: with the measured costs.

    Raises:
        UserError: a number is out of range, or there are no measured costs.
    """
    blip, of_mplug = read_costs(BLIP, folder), (folder / f"{MEASURED[MPLUG]}.json").exists()
    mplug = read_costs(MPLUG, folder) if of_mplug else blip
    is_mplug = {type_of(model) for model in {cell.model for cell in plan.cells}} == {MPLUG}
    costs = mplug if is_mplug else blip
    speed = PEAK * UTILISATION if teraflops is None else teraflops * 1e12
    one, two = (simulate(plan, models, speed) for models in ([costs], [blip, mplug]))
    width = max(len("all rows"), *map(len, one.rows))
    lines = [f"{'row':<{width}}  cells  GPU hours  hours on {gpus} GPU{'s' if gpus > 1 else ''}"]
    for name, seconds in {**one.rows, "all rows": one.seconds}.items():
        alone = max(dealt(seconds, gpus))
        lines.append(f"{name:<{width}}  {len(seconds):>5}  {_hours(sum(seconds)):>9}  {_hours(alone):>8}")
    lines += ["", "GPUs  hours, one model  busy  hours, two models  busy"]
    for count in sorted({*COUNTS, gpus}):
        parts = [
            f"{_hours(of.makespan(count)):>{wide}}  {of.efficiency(count):>4.0%}"
            for of, wide in ((one, 16), (two, 17))
        ]
        lines.append(f"{count:>4}  {'  '.join(parts)}")
    lines += [
        "",
        f"longest cell: {one.longest}, {_hours(max(one.seconds))} hours",
        f"one model: {TITLES[MPLUG if is_mplug else BLIP]}; two models: {TITLES[BLIP]} and {TITLES[MPLUG]}",
        f"cells that wait for pictures, so that their methods take the same time: {one.waiting} of "
        f"{len(one.seconds)}",
        *_about(plan, [blip, mplug] if of_mplug else [blip], teraflops),
    ]
    return "\n".join(lines)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f}"


def _about(plan: Plan, measured: Sequence[Costs], teraflops: float | None) -> list[str]:
    """What is measured and what is assumed.

    Args:
        measured: the costs of each measured model.
    """
    is_validated = any(cell.recipe and cell.recipe.validate_every for cell in plan.cells)
    speed = (
        f"{PEAK * UTILISATION / 1e12:.0f} teraFLOP/s, {UTILISATION:.0%} of an A100's peak"
        if teraflops is None
        else f"{teraflops:g} teraFLOP/s"
    )
    scaled = (
        f"; that a GPU does {speed}, for which all times of a model are divided by one factor"
        if not all(costs.on_gpu for costs in measured)
        else ""
    )
    machines = "; ".join(f"{costs.title} on {costs.where}" for costs in measured)
    return [
        f"measured: seconds per example of each method, in training and answering, {machines}; "
        f"{1000 * READ:g} ms to read and change a picture",
        f"assumed: one GPU for a cell and {MOST} cores that read its pictures, cells with most training "
        f"first, {START:g} seconds to start each{scaled}",
        *[
            f"assumed: {TITLES[MPLUG]} costs what {TITLES[BLIP]} does, since it was not measured: measure it "
            f"with `attngraph bench --only {MEASURED[MPLUG]}`"
        ]
        * (len(measured) == 1),
        *["not counted: scores on validation data while runs train"] * is_validated,
        *(line for costs in measured for line in _not_measured(plan, costs)),
    ]


def _not_measured(plan: Plan, costs: Costs) -> list[str]:
    """Of which methods a model's costs are those of another one."""
    taken: dict[str, list[str]] = {}
    for name in dict.fromkeys(cell.method for cell in plan.cells):
        if costs.method(name) != name:
            taken.setdefault(costs.method(name), []).append(name)
    return [
        f"assumed, since it was not measured with {costs.title}: {', '.join(names)} "
        f"cost{'s' * (len(names) == 1)} what {like} does{_too_little(names)}"
        for like, names in taken.items()
    ]


def _too_little(names: Sequence[str]) -> str:
    """What is known to be wrong about other methods' costs."""
    dear = [name for name in names if method_named(name).vision == "trained"]
    return f" (too little for {', '.join(dear)}: the image encoder is trained too)" if dear else ""
