"""Which cells a table consists of, and how long they should take."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.joins import JOINS
from adapters.scheme import SCHEMES
from attngraph.errors import UserError
from experiments.arguments import did_you_mean
from experiments.configs.presets import MOST_SEEDS, Amount, Layouts, Preset, Published
from experiments.configs.settings import Settings
from experiments.known import check_known
from experiments.methods import METHODS, GraphAdapter, Method, method_named
from experiments.methods.method import REFERENCE, canonical
from experiments.models.ranking import Ranking
from experiments.scenes.layouts import LAYOUTS
from experiments.scenes.write import Sizes
from experiments.shipped import unless_default
from experiments.tasks import TASKS, Task, tasks_named
from experiments.tasks.task import SPLITS, Budget
from experiments.training.answering import GENERATE, RANK
from experiments.training.cells import Cell
from experiments.training.checkpoints import CHECKPOINTS, checkpoint_of
from experiments.training.device import uses_bfloat16
from experiments.training.recipe import Recipe

# Seconds of a training step on one of two busy cores: (fixed, for each example). Half precision costs more
# for a step and less for an example.
STEP_SECONDS = {"half": (0.06, 1.6e-3), "float32": (0.03, 2.8e-3)}
ENCODER_TIMES = {"frozen": 1, "trained": 2, "zero": 1}  # as long, by what happens to the image encoder
CORES = 2  # of the machine that estimates are for
START_SECONDS = 3  # of a worker process
MOST_SEED = 2**31  # random generators take no larger ones

Drawn = Sizes | Layouts | Published  # how much there is of data that nobody has named a folder of


@dataclass(frozen=True)
class Request:
    """What a user asks of a table.

    Args:
        gnns: only these methods beside the reference rows; None for those of the preset.
        tasks: only these; None for all.
        first_seed: of trained rows.
        seeds: number of seeds for every trained row; None by preset.
        join: how adapters join the model; None as chosen on validation data.
        model: checkpoint folder or hub name, for all seeds.
        checkpoints: folder of the pre-trained checkpoints beside the shipped one.
        only_checkpoint: only the seeds that start from this one; None for all.
        data: folder of data sets that the user named; None where data are drawn.
        answering: one of :data:`experiments.training.answering.WAYS`; None as each task says.
    """

    gnns: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    first_seed: int = 0
    seeds: int | None = None
    join: str | None = None
    model: str | None = None
    checkpoints: Path = CHECKPOINTS
    only_checkpoint: int | None = None
    data: Path | None = None
    answering: str | None = None

    def __post_init__(self):
        if self.join is not None and self.join not in JOINS:
            near = did_you_mean(self.join, JOINS)
            raise UserError(f"unknown join {self.join!r}{near}: choose from {', '.join(JOINS)}")
        if self.seeds is not None and not 1 <= self.seeds <= MOST_SEEDS:
            raise UserError(f"--seeds must be at least 1 and at most {MOST_SEEDS}, got {self.seeds}")
        if not 0 <= self.first_seed < MOST_SEED:
            raise UserError(f"--seed must be at least 0 and below {MOST_SEED}, got {self.first_seed}")
        if self.gnns is not None:
            object.__setattr__(self, "gnns", [canonical(name) for name in self.gnns])
        for names, known, what in (
            (self.tasks, list(TASKS), "task"),
            (self.gnns, list(dict.fromkeys([*METHODS, *SCHEMES])), "method"),
        ):
            if names is not None:
                check_known(names, known, what)


@dataclass(frozen=True)
class Plan:
    """A table to run.

    Args:
        rows: method -> its cells; a cell may stand in two rows.
        tasks: by name, in the order of the columns.
        sizes: of the data sets that are drawn; None where the user named a folder of data.
        data_seed: of the drawn data sets.
        unsearched: method and task of the cells for which nothing was chosen on validation data.
        borrowed: task -> the task whose chosen settings some of its cells take.
    """

    rows: dict[str, list[Cell]]
    tasks: dict[str, Task]
    sizes: Drawn | None
    data_seed: int = 0
    unsearched: tuple[tuple[str, str], ...] = ()
    borrowed: Mapping[str, str] = field(default_factory=dict)

    @property
    def cells(self) -> list[Cell]:
        """Every cell once, those of one checkpoint together, and of these the ones of one seed."""
        cells = dict.fromkeys(cell for cells in self.rows.values() for cell in cells)
        return sorted(cells, key=lambda cell: (cell.model or "", cell.seed))

    @property
    def is_small(self) -> bool:
        """Whether all cells run the mini-BLIP, whose times are known."""
        own = [cell.model for cell in self.cells if not cell.checkpoint]
        return not any(map(unless_default, own)) and all(cell.side is None for cell in self.cells)

    def seconds(self, jobs: int, done: Collection[Cell] = ()) -> float:
        """How long the cells but for those that are done should take, so many at a time, on a machine of two
        cores, where more than two at a time are not done sooner.
        """
        splits = {(cell.task, cell.split): cell for cell in self.cells}
        counts = {
            (name, split): example_count(self.tasks[name], split, self.sizes, cell.data)
            for (name, split), cell in splits.items()
        }
        left = [cell for cell in self.cells if cell not in done]
        each = [self._cell_seconds(cell, counts[cell.task, cell.split]) for cell in left]
        return max([sum(each) / min(jobs, CORES), *each])

    def _cell_seconds(self, cell: Cell, examples: int) -> float:
        task, method = self.tasks[cell.task], method_named(cell.method)
        scored = min(cell.eval_examples or math.inf, examples)
        training = step_seconds(cell.recipe, method) * cell.recipe.steps if cell.recipe else 0
        return START_SECONDS + task.budget.eval_seconds * scored + training


def step_seconds(recipe: Recipe, method: Method) -> float:
    """How long a training step should take."""
    half = uses_bfloat16("cpu") if recipe.precision == "auto" else recipe.precision != "float32"
    fixed, example = STEP_SECONDS["half" if half else "float32"]
    return ENCODER_TIMES[method.vision] * (fixed + example * recipe.batch_size)


def example_count(task: Task, split: str, sizes: Drawn | None, data: Path) -> int:
    """How many examples a split of a task has; of data to be drawn, before they are drawn."""
    if isinstance(sizes, (Layouts, Published)):
        return sizes.count(task.name, split)
    if task.drawn is not None and sizes is not None:
        return getattr(sizes, task.drawn)[SPLITS.index(split)]
    return len(task.examples(data, split))


def steps_of(epochs: float, examples: int, batch_size: int) -> int:
    """Optimiser steps that see every example ``epochs`` times; what does not fill a batch is left out of an
    epoch, see :mod:`experiments.training.order`.
    """
    return max(1, round(epochs * (examples // min(batch_size, examples))))


def training_steps(preset: Amount, task: Task, sizes: Drawn | None, data: Path) -> int:
    """Optimiser steps of a task; passes over the training examples become steps.

    Args:
        preset: says how many.
        task: of the run.
        sizes: of data to be drawn; None for those that are there.
        data: their folder.
    """
    epochs, budget = preset.epochs_of(task), preset.budget_of(task)
    if epochs is None:
        return budget.steps
    found = example_count(task, "train", sizes, data)
    return steps_of(epochs, min(found, budget.train_examples or found), budget.batch_size)


def is_ranked(task: Task, answering: str | None, data: Path) -> bool:
    """Whether a task's answers are ranked.

    Args:
        task: of the run.
        answering: as asked for; None as the task says.
        data: the folder of data sets.
    """
    if task.ranks and answering == RANK:
        return True
    return answering != GENERATE and isinstance(task.answering(data), Ranking)


def tasks_of(names: Sequence[str] | None, preset: Amount, data: Path | None) -> dict[str, Task]:
    """The tasks of a table or a search.

    Args:
        names: those that the user named; None for all whose data a named folder holds, or for all whose data
            need no folder, as far as the preset does not leave them out.
        preset: what is run.
        data: the folder of data sets that the user named; None where data are drawn.

    Raises:
        UserError: an unknown task in the preset, no task, or a task without its data.
    """
    check_known([*preset.tasks, *TASKS], list(TASKS), "task")
    if names is None:
        kept = [task for name, task in TASKS.items() if name not in preset.left_out]
        names = [task.name for task in kept if _is_default(task, preset, data)]
        if not kept or (data is None and not names):
            raise UserError("the preset leaves out every task: name some with --tasks")
        if data is not None and not names:
            folders = ", ".join(task.data_set for task in TASKS.values() if task.data_set)
            raise UserError(
                f"--data {data} holds no data of a task: give a folder that holds one for each data set "
                f"({folders}), or the folder that `attngraph scenes` has written"
            )
    tasks = tasks_named(names)
    for task in tasks.values():
        if data is None and preset.is_official:
            _check_drawn(task, preset)
        else:
            task.check(data)
    return tasks


def _is_default(task: Task, preset: Amount, data: Path | None) -> bool:
    if data is not None:
        return task.found(data)
    if preset.published:
        return task.name in preset.published
    return (task.data_set is not None) == preset.is_official


def _check_drawn(task: Task, preset: Amount) -> None:
    """Raise UserError where a task is none of those whose official files are drawn, or known in number."""
    known = preset.published or [name for name, each in TASKS.items() if each.data_set in LAYOUTS]
    if task.name not in known:
        raise UserError(f"{task.name} is no task of this size: choose from {', '.join(known)}")


def plan_table(preset: Preset, request: Request, chosen: Settings, data: Path) -> Plan:
    """The cells of a table.

    Args:
        preset: how much to run.
        request: what the user changes of it.
        chosen: settings chosen on validation data.
        data: folder of the drawn data sets, where the request names none.

    Raises:
        UserError: an unknown method or task in the preset, no seed to run, or no data.
    """
    if not any(preset.seeds.values()):
        raise UserError("the preset runs nothing: give a method at least one seed (seeds: {gcn: 1})")
    seeds = dict(preset.seeds)
    if request.gnns is not None:
        default = max(preset.seeds.values())
        references = {name: n for name, n in seeds.items() if method_named(name).group == REFERENCE}
        seeds = {**{name: preset.seeds.get(name, default) for name in request.gnns}, **references}
    tasks = tasks_of(request.tasks, preset, request.data)
    planner = _Planner(preset, request, chosen, request.data or data)
    rows = {name: planner.row(method_named(name), count, tasks) for name, count in seeds.items()}
    rows = {name: cells for name, cells in rows.items() if cells}
    if not rows:
        only = request.only_checkpoint
        part = "" if only is None else f" that starts from checkpoint {only}"
        raise UserError(f"no row has a seed{part}: give more --seeds, or other rows")
    sizes = preset.amounts if request.data is None else None
    return Plan(rows, tasks, sizes, preset.data_seed, tuple(planner.unsearched), planner.borrowed)


def searched_for(method: Method, task: Task, chosen: Settings) -> str | None:
    """The task whose chosen settings a method takes: this one, or the one that it is like; None where nothing
    was chosen for either.
    """
    names = (name for name in (task.name, task.like) if name is not None)
    return next((name for name in names if method.choice(chosen, name) is not None), None)


class _Planner:
    """Makes each cell once."""

    def __init__(self, preset: Preset, request: Request, chosen: Settings, data: Path):
        self.preset, self.request, self.chosen, self.data = preset, request, chosen, data
        self.made: dict[tuple[str, str, int], Cell] = {}
        self.steps: dict[str, int] = {}
        self.unsearched: dict[tuple[str, str], None] = {}
        self.borrowed: dict[str, str] = {}

    def row(self, method: Method, count: int, tasks: dict[str, Task]) -> list[Cell]:
        """The cells of a row."""
        trained = method if method.repeats is None else method_named(method.repeats)
        count = count if self.request.seeds is None or not method.trains else self.request.seeds
        first = self.request.first_seed if method.trains else 0
        seeds = range(first, first + (count if method.trains else min(count, self._checkpoints)))
        only = self.request.only_checkpoint
        kept = [seed for seed in seeds if only is None or seed % self._checkpoints == only]
        return [
            self._cell(self._plain(trained, task), task, seed) for seed in kept for task in tasks.values()
        ]

    def _plain(self, method: Method, task: Task) -> Method:
        """The method whose run a cell of a row is: where the width of the row's bottleneck is the chosen one
        and nothing else differs, the one that the row follows, so that no run is made twice.
        """
        if not isinstance(method, GraphAdapter) or method.reduction is None:
            return method
        plain = METHODS[method.leader]
        return plain if self._decided(plain, task) == self._decided(method, task) else method

    def _decided(self, method: Method, task: Task) -> tuple[dict[str, Any], float]:
        """The settings and the learning rate of a method on a task."""
        name = searched_for(method, task, self.chosen) or task.name
        return method.settings(self.chosen, name, self.request.join), method.rate(self.chosen, name)

    @property
    def _checkpoints(self) -> int:
        """How many checkpoints the seeds are dealt over."""
        return 1 if self.request.model is not None else self.preset.checkpoints

    def _model(self, seed: int) -> str | None:
        """The checkpoint of a seed."""
        return self.request.model or checkpoint_of(seed, self._checkpoints, self.request.checkpoints)

    def _cell(self, method: Method, task: Task, seed: int) -> Cell:
        key = (method.name, task.name, seed)
        if key not in self.made:
            budget = self.preset.budget_of(task)
            searched = self._searched(method, task) if method.trains else task.name
            answering = self.request.answering or self.preset.answering
            self.made[key] = Cell(
                method.name,
                method.name,
                method.settings(self.chosen, searched, self.request.join),
                task.name,
                seed,
                self._recipe(method.rate(self.chosen, searched), task, budget) if method.trains else None,
                self.data,
                self._model(seed),
                train_examples=budget.train_examples,
                eval_examples=budget.eval_examples,
                checkpoint=self._checkpoints > 1 and self._model(seed) is not None,
                answering=answering,
                side=self.preset.side,
                decoding=self.preset.answers_of(task, ranks=is_ranked(task, answering, self.data)),
            )
        return self.made[key]

    def _recipe(self, rate: float, task: Task, budget: Budget) -> Recipe:
        """How a cell trains."""
        if task.name not in self.steps:
            sizes = self.preset.amounts if self.request.data is None else None
            self.steps[task.name] = training_steps(self.preset, task, sizes, self.data)
        return self.preset.recipe_of(rate, self.steps[task.name], budget)

    def _searched(self, method: Method, task: Task) -> str:
        """The task whose chosen settings a method takes: its own, or the one that it is like."""
        found = searched_for(method, task, self.chosen)
        if found is None:
            self.unsearched[method.name, task.name] = None
        elif found != task.name:
            self.borrowed[task.name] = found
        return found or task.name
