"""One run: a method trained on a task with a seed, scored, and saved in a folder of its own."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attngraph.errors import UserError
from experiments.base.files import whole, write_json, write_text
from experiments.base.progress import note
from experiments.data.example import Example
from experiments.methods import method_named
from experiments.methods.parameters import count_parameters
from experiments.models import load_family
from experiments.models.family import Answering
from experiments.models.weights import weights_digest
from experiments.runs.answering import check_room, described, predict, way_of
from experiments.runs.data import FeatureCache, TaskData, subset
from experiments.runs.device import PeakMemory, agreed, cpu_threads, processes, training_precision
from experiments.runs.execution import Execution
from experiments.runs.experiment import EXPERIMENT, Diverged, Recipe, experiment_of
from experiments.runs.saved import (
    CONFIG,
    DIVERGED,
    PREDICTIONS,
    SCORES,
    STATISTICS,
    made_with,
    read_config,
    read_result,
)
from experiments.runs.trackers import Tracking
from experiments.runs.train import STATES, last_state, train
from experiments.runs.validation import Validation
from experiments.tasks import TASKS

IMAGE_STATES = "image-states"  # the folder that the runs of a table share
VALIDATED = "validation"  # the split by which the best state of a run is chosen
WATCHED = 64  # examples on which is measured what adapters do


@dataclass(frozen=True, eq=False)  # its settings are no dictionary keys, the cell itself is
class Cell:
    """One run.

    Args:
        label: names its folder; by default the method's name.
        method: the method's name.
        settings: the method's, see :meth:`experiments.methods.method.Method.settings`.
        task: the task's name.
        seed: of the trainable weights and of the order of the examples.
        recipe: how to train; None for methods without training.
        data: folder of the data sets.
        model: checkpoint folder or hub name; None for the mini-BLIP that ships with the package.
        split: the split that is scored: ``test`` for tables, ``validation`` for choices.
        checkpoint: whether the model is one of those that a preset's seeds are dealt over. A finished run
            counts where this machine does not have its checkpoint.
        train_examples, eval_examples: how many examples to use at most (a fixed random subset); None for all.
        answering: one of :data:`experiments.runs.answering.WAYS`; None as the task says.
        side: of the pictures that the model sees, in pixels, to which its positions are interpolated; None
            as the checkpoint says.
        decoding: what the task's way of answering is changed to, by name (see
            :class:`experiments.models.family.Decoding` and :class:`experiments.models.ranking.Ranking`).
    """

    label: str
    method: str
    settings: dict[str, Any]
    task: str
    seed: int
    recipe: Recipe | None
    data: Path
    model: str | None = None
    split: str = "test"
    train_examples: int | None = None
    eval_examples: int | None = None
    checkpoint: bool = False
    answering: str | None = None
    side: int | None = None
    decoding: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """In messages."""
        return f"{self.label} {self.task} seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """Where the run is saved."""
        return out / "cells" / self.label / self.task / f"seed{self.seed}"

    def description(self) -> dict[str, Any]:
        """What decides the result, as plain values. How the model answers is a part where the user chose
        it, and for tasks on official files, whose lists may change with the data.
        """
        content = asdict(self)
        content["recipe"] = self.recipe.description() if self.recipe else None
        task = TASKS[self.task]
        content["data"] = task.content(self.data, self.split)
        content["weights"] = weights_digest(content.pop("model"))
        del content["checkpoint"], content["answering"], content["decoding"]
        if self.side is None:
            del content["side"]
        if self.recipe and self.recipe.validate_every is not None:
            content["validation"] = task.content(self.data, VALIDATED)
        if self.answering is not None or task.data_set is not None or self.decoding:
            content["answering"] = described(self.way())
        return json.loads(
            json.dumps(content, default=str)
        )  # lists and texts in the place of tuples and paths

    def way(self) -> Answering:
        """How the model answers."""
        return way_of(TASKS[self.task], self.data, self.answering, self.model, self.decoding)


def has_scores(cell: Cell, out: Path) -> bool:
    """Whether a run has ended in the cell's folder, whichever it was."""
    return (cell.folder(out) / SCORES).exists()


def has_diverged(cell: Cell, out: Path) -> bool:
    """Whether the run in the cell's folder ended with numbers that are not finite, whichever it was."""
    return (cell.folder(out) / DIVERGED).exists()


def read_scores(cell: Cell, out: Path) -> dict[str, Any]:
    """The content of a finished cell's ``scores.json``.

    Raises:
        UserError: a file of the cell is damaged.
    """
    return read_result(cell.folder(out), cell.label, TASKS[cell.task], cell.seed)


def is_finished(cell: Cell, run: Execution) -> bool:
    """Whether the cell's scores are there, for these very settings and conditions.

    Raises:
        UserError: the folder holds a run with other settings or conditions, or is damaged.
    """
    folder = cell.folder(run.out)
    if not folder.exists() or not any(folder.iterdir()):
        return False
    config, settings = read_config(folder), cell.description()
    saved = config["settings"]
    if cell.checkpoint and not Path(str(cell.model)).exists():
        settings["weights"] = saved.get("weights")  # which nobody can compare here
    wrong = [name for name in {**settings, **saved} if saved.get(name) != settings.get(name)]
    wrong += [
        f"{name}: {config.get(name, 'unknown')}, not {value}"
        for name, value in run.conditions().items()
        if config.get(name) != value
    ]
    if wrong:
        raise UserError(
            f"{folder} holds another experiment (other {', '.join(wrong)}): give another --out, or move it "
            "away"
        )
    return has_scores(cell, run.out) and bool(read_scores(cell, run.out))


def remove_states(cell: Cell, out: Path) -> None:
    """Remove what a finished cell needs no longer: the states from which an interrupted one continues."""
    shutil.rmtree(cell.folder(out) / STATES, ignore_errors=True)


def run_cell(
    cell: Cell, run: Execution, on_step: Callable[[int], None] = lambda step: None
) -> dict[str, Any]:
    """Train and score one cell, unless it is finished; continue it if it was interrupted.

    Under ``torchrun`` all processes call this together: they train on the same batches as one process would,
    and share the scoring; the first one writes.

    Args:
        cell: which.
        run: where and how, on one device.
        on_step: told after every step.

    Returns:
        The contents of ``scores.json``.

    Raises:
        Diverged: the loss or a weight is not finite; the cell's folder says so from now on.
    """
    is_main = processes(run.device).is_main_process
    with cpu_threads(run.threads):
        if not agreed(lambda: is_finished(cell, run)):
            try:
                _train_and_score(cell, run, on_step)
            except Diverged as error:
                if is_main:
                    write_json(cell.folder(run.out) / DIVERGED, {"error": str(error)})
                raise
    if is_main:
        remove_states(cell, run.out)
    return agreed(lambda: read_scores(cell, run.out))


def _train_and_score(cell: Cell, run: Execution, on_step: Callable[[int], None]) -> None:
    state, folder, recipe = processes(run.device), cell.folder(run.out), cell.recipe
    if state.is_main_process:
        _write_config(cell, run)
    torch.manual_seed(cell.seed)
    random.seed(cell.seed)
    task, method = TASKS[cell.task], method_named(cell.method)
    cache, way = FeatureCache(run.out / IMAGE_STATES, run.cache_gb), cell.way()

    def examples_of(split: str, count: int | None) -> Sequence[Example]:
        return subset(task.examples(cell.data, split), count)

    def seen(examples: Sequence[Example], augment: bool = False) -> TaskData:
        released = getattr(way, "as_released", None)
        with state.main_process_first():  # it fills the cache of image states
            return TaskData(family, task, examples, method.vision, cache, augment, released)

    # the model, and what it sees
    family = load_family(cell.model, side=cell.side)
    family.model.to(run.device)
    check_room(way, family)
    tuned = method.apply(family, cell.settings)
    started = tuned.scalars()
    training = examples_of("train", cell.train_examples)
    examples = examples_of(cell.split, cell.eval_examples)
    tuned.observe(task.target(example, 0.0) for example in training)
    asked, validation, trained = seen(examples), None, None
    if recipe is not None:
        data = seen(training, recipe.augment)
        if recipe.validate_every is not None:
            held = seen(examples_of(VALIDATED, cell.eval_examples))
            validation = Validation(tuned, held, way, recipe, folder)

    # what it learns, and its answers
    peak, began = PeakMemory(run.device), time.perf_counter()
    if recipe is not None:
        tracking = Tracking(run.trackers, folder, cell.name, cell.description())
        trained = train(tuned, data, recipe, cell.seed, folder, on_step, validation, tracking)
        if state.is_main_process:
            tuned.save(folder)
    trained_at = time.perf_counter()
    predictions = predict(tuned, asked, way)
    if not state.is_main_process:
        return
    scores = task.score(predictions, examples)
    write_json(folder / PREDICTIONS, predictions)
    with whole(folder / STATISTICS) as part:
        sums = {key: per_image(values, examples) for key, values in scores.statistics.items()}
        np.savez_compressed(part, **sums)
    result = {
        "row": cell.label,
        "task": cell.task,
        "seed": cell.seed,
        "split": cell.split,
        "scores": scores.columns,
        "kinds": scores.kinds,
        "examples": len(examples),
        "trained_on": len(training),
        "parameters": sum(p.numel() for p in tuned.parameters().values()),
        "parameter_shares": count_parameters(tuned).shares,
        "loss": trained and trained.loss,
        "started": started,
        "learned": tuned.scalars(),
        "effects": tuned.effects(asked.first(WATCHED)),
        "train_seconds": (trained.earlier_seconds if trained else 0.0) + trained_at - began,
        "eval_seconds": time.perf_counter() - trained_at,
        "peak_mb": peak.bytes() / 1e6,
        "evaluator": scores.evaluator,
        "source": task.source(cell.data, cell.split),
        "answering": described(way, family),
    }
    if trained and trained.best_step is not None:
        result |= {"best_step": trained.best_step, "validations": trained.validations}
    write_json(folder / SCORES, result, default=float)  # last: it marks the cell as finished


def _write_config(cell: Cell, run: Execution) -> None:
    """What decides a cell's result and with what it is made; of a run that goes on elsewhere, in another
    precision or with other code or packages, also where it was before. Its result is nobody else's then.
    """
    folder = cell.folder(run.out)
    config = {
        "settings": cell.description(),
        "device": run.device,
        "precision": training_precision(run.device, cell.recipe.precision if cell.recipe else "auto"),
        "cache_gb": run.cache_gb,
        **run.conditions(),
        **made_with(),
    }
    if last_state(folder) is not None:
        earlier = read_config(folder)
        before = earlier.get("before", [])
        last = {name: earlier.get(name) for name in ("device", "precision", "versions", "machine")}
        kinds = [str(place["device"]).partition(":")[0] for place in (last, config)]
        if kinds[0] != kinds[1] or any(last[name] != config[name] for name in ("precision", "versions")):
            before = [*before, last]
            was = f"{last['precision']} on {last['device']}"
            note(f"{folder}: goes on with another device, precision or code than {was}; {CONFIG} keeps both")
        if before:
            config["before"] = before
    write_json(folder / CONFIG, config)
    write_text(folder / EXPERIMENT, experiment_of(cell).yaml())
    (folder / DIVERGED).unlink(missing_ok=True)  # this call may end otherwise


def per_image(statistics: np.ndarray, examples: Sequence[Example]) -> np.ndarray:
    """Per-example statistics ``(N, K)`` summed over the questions about each image, ``(images, K)``: what a
    bootstrap may draw, since questions about one image are right or wrong together."""
    place = {image: k for k, image in enumerate(dict.fromkeys(example.image for example in examples))}
    sums = np.zeros((len(place), statistics.shape[1]))
    np.add.at(sums, [place[example.image] for example in examples], statistics)
    return sums
