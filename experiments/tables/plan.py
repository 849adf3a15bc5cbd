"""From files to cells: the cell that an experiment is, those of a table, and how long they should take."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adapters.joins import JOINS
from adapters.scheme import SCHEMES
from attngraph.errors import UserError
from experiments.base.arguments import did_you_mean
from experiments.base.known import check_known
from experiments.base.shipped import unless_default
from experiments.data.layouts import LAYOUTS
from experiments.methods import METHODS, GraphAdapter, Method, method_named
from experiments.methods.method import REFERENCE, canonical
from experiments.methods.settings import Settings
from experiments.models.ranking import Ranking
from experiments.runs.answering import GENERATE, RANK, check_answering
from experiments.runs.cells import Cell
from experiments.runs.device import uses_bfloat16
from experiments.runs.experiment import Experiment, ListRanking, Scenes, TextDecoding, Training
from experiments.runs.recipe import Recipe
from experiments.tables.checkpoints import CHECKPOINTS, checkpoint_of
from experiments.tables.grid import MOST_SEEDS, Grid, searched_for
from experiments.tasks import TASKS, Task, tasks_named

# Seconds of a training step on one of two busy cores: (fixed, for each example). Half precision costs more
# for a step and less for an example.
STEP_SECONDS = {"half": (0.06, 1.6e-3), "float32": (0.03, 2.8e-3)}
ENCODER_TIMES = {"frozen": 1, "trained": 2, "zero": 1}  # as long, by what happens to the image encoder
CORES = 2  # of the machine that estimates are for
START_SECONDS = 3  # of a worker process


# ---- one experiment -------------------------------------------------------------------------------------


def cell_of(
    experiment: Experiment,
    drawn: Path,
    chosen: Settings,
    join: str | None = None,
    counted: dict[str, int] | None = None,
) -> Cell:
    """The cell of an experiment: what the file leaves open is decided here.

    Args:
        experiment: as the user gave it, or as a table says.
        drawn: folder for drawn data.
        chosen: settings chosen on validation data.
        join: how adapters join the model, in place of the chosen way.
        counted: task -> its training examples, of an earlier call on the same data; gets those counted here.

    Raises:
        UserError: a recipe that cannot be followed.
    """
    method, task = method_named(experiment.method), TASKS[experiment.task]
    searched = searched_for(method, task, chosen) or task.name
    data = drawn if experiment.data is None else Path(experiment.data)
    train_examples = experiment.train_examples or task.budget.train_examples
    recipe = None
    if method.trains:
        rate = experiment.recipe.learning_rate or method.rate(chosen, searched)
        recipe = _recipe(experiment, rate, task, data, train_examples, {} if counted is None else counted)
    return Cell(
        method.name,
        method.name,
        settings_of(method, method.settings(chosen, searched, join), experiment.settings),
        task.name,
        experiment.seed,
        recipe,
        data,
        experiment.model,
        split=experiment.split,
        train_examples=train_examples,
        eval_examples=experiment.eval_examples or task.budget.eval_examples,
        answering=experiment.answering,
        side=experiment.side,
        decoding=experiment.details(),
    )


def decided(experiment: Experiment, drawn: Path, chosen: Settings) -> tuple[Cell, Scenes | None]:
    """The cell of a user's experiment, and the scenes that are drawn for it; None where it has other data.

    Args:
        experiment: as the user gave it.
        drawn: folder for drawn data.
        chosen: settings chosen on validation data.

    Raises:
        UserError: a name is unknown, something is missing, or changes nothing.
    """
    method = method_named(experiment.method)
    if method.repeats is not None:
        raise UserError(f"method {method.name} shows the runs of {method.repeats} again: give that one")
    if not method.trains and experiment.recipe != Training():
        raise UserError(f"recipe changes nothing, since {method.name} trains nothing: leave it out")
    check_known([experiment.task], list(TASKS), "task")
    task, data = TASKS[experiment.task], experiment.data
    if data is None:
        if task.data_set is not None:
            raise UserError(
                f"data is missing: give the folder that holds {task.data_set}, which {task.name} reads"
            )
    elif task.packaged:
        raise UserError(f"data {data}: the examples of {task.name} come with a package: leave data out")
    elif not Path(data).is_dir():
        raise UserError(f"data {data} is no folder: give the one that holds the data sets")
    if experiment.scenes.is_official:
        raise UserError(
            "scenes: layouts and published are a table's: draw data sets with attngraph data make"
        )
    task.check(None if data is None else Path(data))
    check_answering(task, experiment.answering)
    cell = cell_of(experiment, drawn, chosen)
    scenes = experiment.scenes if data is None and task.drawn is not None else None
    if scenes is None or not task.ranks:
        cell.way()  # an error where what was said of it does not fit
    return cell, scenes


def settings_of(method: Method, own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A method's settings, some of which were given. Who names all of them gets these; else what is not given
    stays, also inside of a setting that has names of its own.

    Args:
        method: whose.
        own: its settings, complete.
        given: by the user.

    Raises:
        UserError: it has no such setting.
    """
    known = [*own, *(name for name in method.further_settings() if name not in own)]
    for name in given:
        if name not in known:
            has = f"choose from {', '.join(known)}" if known else "leave settings out"
            raise UserError(f"settings: {method.name} has no {name!r}{did_you_mean(name, known)}: {has}")
    if own.keys() <= given.keys():
        return dict(given)
    return {**own, **{name: _over(own.get(name), value) for name, value in given.items()}}


def _over(own: Any, given: Any) -> Any:
    return {**own, **given} if isinstance(own, Mapping) and isinstance(given, Mapping) else given


def _recipe(
    experiment: Experiment, rate: float, task: Task, data: Path, most: int | None, counted: dict[str, int]
) -> Recipe:
    """How an experiment trains; passes over the training examples become steps."""
    given: Any = experiment.recipe
    budget, said = task.budget, given.model_dump()
    batch_size = given.batch_size or budget.batch_size
    steps = given.steps or budget.steps
    if (epochs := said.pop("epochs")) is not None:
        if task.name not in counted:
            scenes = experiment.scenes if experiment.data is None else None
            counted[task.name] = example_count(task, "train", scenes, data)
        steps = steps_of(epochs, min(counted[task.name], most or counted[task.name]), batch_size)
    augment = budget.augment if given.augment is None else given.augment
    decided = dict(learning_rate=rate, steps=steps, batch_size=batch_size, augment=augment)
    try:
        return Recipe(**{**said, **decided})
    except UserError as error:
        raise UserError(f"recipe: {error}") from None


def example_count(task: Task, split: str, scenes: Scenes | None, data: Path) -> int:
    """How many examples a split of a task has; of data to be drawn, before they are drawn."""
    drawn = None if scenes is None else scenes.count(task, split)
    return len(task.examples(data, split)) if drawn is None else drawn


def steps_of(epochs: float, examples: int, batch_size: int) -> int:
    """Optimiser steps that see every example ``epochs`` times; what does not fill a batch is left out of an
    epoch, see :mod:`experiments.runs.order`.
    """
    return max(1, round(epochs * (examples // min(batch_size, examples))))


# ---- a table --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """What a user asks of a grid.

    Args:
        rows: only these methods, of a preset beside its reference rows; None for those of the grid.
        tasks: only these; None for all.
        first_seed: of trained rows.
        seeds: number of seeds for every trained row; None as the grid says.
        join: how adapters join the model; None as chosen on validation data.
        model: checkpoint folder or hub name, for all seeds.
        checkpoints: folder of the pre-trained checkpoints beside the shipped one.
        data: folder of data sets that the user named; None where data are drawn.
        answering: one of :data:`experiments.runs.answering.WAYS`; None as each task says.

    Raises:
        UserError: a name is unknown, or a number out of range.
    """

    rows: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    first_seed: int = 0
    seeds: int | None = None
    join: str | None = None
    model: str | None = None
    checkpoints: Path = CHECKPOINTS
    data: Path | None = None
    answering: str | None = None

    def __post_init__(self):
        if self.join is not None and self.join not in JOINS:
            near = did_you_mean(self.join, JOINS)
            raise UserError(f"unknown join {self.join!r}{near}: choose from {', '.join(JOINS)}")
        if self.seeds is not None and not 1 <= self.seeds <= MOST_SEEDS:
            raise UserError(f"--seeds must be at least 1 and at most {MOST_SEEDS}, got {self.seeds}")
        if self.rows is not None:
            object.__setattr__(self, "rows", [canonical(name) for name in self.rows])
        for names, known, what in (
            (self.tasks, list(TASKS), "task"),
            (self.rows, list(dict.fromkeys([*METHODS, *SCHEMES])), "method"),
        ):
            if names is not None:
                check_known(names, known, what)


EVERYTHING = Wanted()


@dataclass(frozen=True)
class Plan:
    """A table to run.

    Args:
        rows: method -> its cells; a cell may stand in two rows.
        tasks: by name, in the order of the columns.
        scenes: that are drawn; None where the user named a folder of data.
        unsearched: method and task of the cells for which nothing was chosen on validation data.
        borrowed: task -> the task whose chosen settings some of its cells take.
    """

    rows: dict[str, list[Cell]]
    tasks: dict[str, Task]
    scenes: Scenes | None
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
            (name, split): example_count(self.tasks[name], split, self.scenes, cell.data)
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


def tasks_of(grid: Grid, names: Sequence[str] | None, data: Path | None) -> dict[str, Task]:
    """The tasks of a table or a search.

    Args:
        grid: what is run.
        names: those that the user named; None for the grid's, or for all whose data a named folder holds, or
            for all whose data need no folder, as far as the grid does not leave them out.
        data: the folder of data sets that the user named; None where data are drawn.

    Raises:
        UserError: an unknown task in the grid, no task, or a task without its data.
    """
    check_known([*grid.by_task, *TASKS], list(TASKS), "task")
    names = grid.tasks if names is None else names
    if names is None:
        left_out = {name for name, part in grid.by_task.items() if part is None}
        kept = [task for name, task in TASKS.items() if name not in left_out]
        names = [task.name for task in kept if _is_default(task, grid.scenes, data)]
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
        if data is None and grid.scenes.is_official:
            _check_drawn(task, grid.scenes)
        else:
            task.check(data)
    return tasks


def _is_default(task: Task, scenes: Scenes, data: Path | None) -> bool:
    if data is not None:
        return task.found(data)
    if scenes.published:
        return task.name in scenes.published
    return (task.data_set is not None) == scenes.is_official


def _check_drawn(task: Task, scenes: Scenes) -> None:
    """Raise UserError where a task is none of those whose official files are drawn, or known in number."""
    known = [*scenes.published] or [name for name, each in TASKS.items() if each.data_set in LAYOUTS]
    if task.name not in known:
        raise UserError(f"{task.name} is no task of this size: choose from {', '.join(known)}")


def plan_table(grid: Grid, wanted: Wanted = EVERYTHING, data: Path = Path("data")) -> Plan:
    """The cells of a table.

    Args:
        grid: which, and how much of it.
        wanted: what the user asks of it.
        data: folder of the drawn data sets, where none is named.

    Raises:
        UserError: an unknown method or task in the grid, no seed to run, or no data.
    """
    seeds = grid.counts
    if not any(seeds.values()):
        raise UserError("the file runs nothing: give a method at least one seed (seeds: {gcn: 1})")
    if wanted.rows is not None and grid.rows:
        seeds = {name: count for name, count in seeds.items() if name in wanted.rows}
    elif wanted.rows is not None:
        references = {name: n for name, n in seeds.items() if method_named(name).group == REFERENCE}
        seeds = {**{name: seeds.get(name, max(seeds.values())) for name in wanted.rows}, **references}
    tasks = tasks_of(grid, wanted.tasks, wanted.data)
    planner = _Planner(grid, wanted, wanted.data or data)
    rows = {name: planner.row(method_named(name), count, tasks) for name, count in seeds.items()}
    rows = {name: cells for name, cells in rows.items() if cells}
    if not rows:
        raise UserError("no row has a seed: give more --seeds, or other rows")
    scenes = grid.scenes if wanted.data is None else None
    return Plan(rows, tasks, scenes, tuple(planner.unsearched), planner.borrowed)


def model_of(grid: Grid, wanted: Wanted, seed: int) -> str | None:
    """The model that a seed's runs of a grid start from; None for the shipped one."""
    return wanted.model or checkpoint_of(seed, grid.checkpoints, wanted.checkpoints)


def experiment_in(grid: Grid, wanted: Wanted, data: Path, task: Task, method: str, seed: int) -> Experiment:
    """A run of a grid as a file, with what is asked of it.

    Args:
        grid, wanted: as for :func:`plan_table`.
        data: folder of the data sets.
        task, method, seed: of the run.
    """
    more: dict[str, Any] = {"seed": seed, "model": model_of(grid, wanted, seed)}
    more |= {"scenes": grid.scenes} if wanted.data is None else {"data": str(wanted.data)}
    more |= {"answering": wanted.answering} if wanted.answering else {}
    experiment = grid.experiment(method, task, **more)
    ranks = is_ranked(task, experiment.answering, data)
    idle = {"decoding": TextDecoding()} if ranks else {"ranking": ListRanking()}
    return experiment.model_copy(update=idle)


class _Planner:
    """Makes each cell once."""

    def __init__(self, grid: Grid, wanted: Wanted, data: Path):
        self.grid, self.wanted, self.data = grid, wanted, data
        self.chosen = grid.chosen
        self.made: dict[tuple[str, str, int], Cell] = {}
        self.counted: dict[str, int] = {}
        self.unsearched: dict[tuple[str, str], None] = {}
        self.borrowed: dict[str, str] = {}

    def row(self, method: Method, count: int, tasks: dict[str, Task]) -> list[Cell]:
        """The cells of a row."""
        trained = method if method.repeats is None else method_named(method.repeats)
        count = count if self.wanted.seeds is None or not method.trains else self.wanted.seeds
        first = self.wanted.first_seed if method.trains else 0
        seeds = range(first, first + (count if method.trains else min(count, self._checkpoints)))
        return [
            self._cell(self._plain(trained, task), task, seed) for seed in seeds for task in tasks.values()
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
        return method.settings(self.chosen, name, self.wanted.join), method.rate(self.chosen, name)

    @property
    def _checkpoints(self) -> int:
        """How many checkpoints the seeds are dealt over."""
        return 1 if self.wanted.model is not None else self.grid.checkpoints

    def _cell(self, method: Method, task: Task, seed: int) -> Cell:
        key = (method.name, task.name, seed)
        if key not in self.made:
            if method.trains:
                self._note_settings(method, task)
            wanted = self.wanted
            experiment = experiment_in(self.grid, wanted, self.data, task, method.name, seed)
            cell = cell_of(experiment, self.data, self.chosen, wanted.join, self.counted)
            self.made[key] = replace(cell, checkpoint=wanted.model is None and cell.model is not None)
        return self.made[key]

    def _note_settings(self, method: Method, task: Task) -> None:
        """Notes a task whose settings are those of another one, or those that nobody chose."""
        found = searched_for(method, task, self.chosen)
        if found is None:
            self.unsearched[method.name, task.name] = None
        elif found != task.name:
            self.borrowed[task.name] = found
