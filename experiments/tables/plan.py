"""From a grid to the cells of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapters.scheme import SCHEMES
from attngraph.errors import UserError
from experiments.base.messages import check_known
from experiments.data.layouts import LAYOUTS
from experiments.methods import METHODS, GraphAdapter, Method, method_named
from experiments.methods.method import REFERENCE, canonical
from experiments.models.ranking import Ranking
from experiments.runs.answering import GENERATE, RANK, check_answering
from experiments.runs.cells import Cell
from experiments.runs.experiment import Experiment, ListRanking, Scenes, TextDecoding
from experiments.runs.plan import cell_of
from experiments.tables.grid import MOST_SEEDS, Grid
from experiments.tasks import TASKS, Task, tasks_named

CHECKPOINTS = Path("runs/checkpoints")  # those beside the shipped one


@dataclass(frozen=True)
class Wanted:
    """What a user asks of a grid.

    Args:
        rows: only these methods, of a preset beside its reference rows; None for those of the grid.
        tasks: only these; None for all.
        seeds: of every row that trains; None for as many as the grid says, from 0 on.
        model: checkpoint folder or hub name, for all seeds.
        data: folder of data sets that the user named; None where data are drawn.

    Raises:
        UserError: a name is unknown, or a number out of range.
    """

    rows: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    seeds: range | None = None
    model: str | None = None
    data: Path | None = None

    def __post_init__(self):
        if self.seeds is not None and not 1 <= len(self.seeds) <= MOST_SEEDS:
            raise UserError(f"--seeds must be at least 1 and at most {MOST_SEEDS}, got {len(self.seeds)}")
        if self.rows is not None:
            object.__setattr__(self, "rows", [canonical(name) for name in self.rows])
        for names, known, what in (
            (self.tasks, list(TASKS), "task"),
            (self.rows, list(dict.fromkeys([*METHODS, *SCHEMES])), "method"),
        ):
            if names is not None:
                check_known(names, known, what)

    def model_of(self, grid: Grid, seed: int) -> str | None:
        """The model that a seed's runs start from: seeds are dealt over the grid's checkpoints in turn. The
        first is the shipped one (None), checkpoint k that of pre-training seed k.
        """
        number = seed % grid.checkpoints
        dealt = str(CHECKPOINTS / f"seed{number}") if number else None
        return self.model or dealt


EVERYTHING = Wanted()


@dataclass(frozen=True)
class Plan:
    """A table to run.

    Args:
        rows: method -> its cells; a cell may stand in two rows.
        tasks: by name, in the order of the columns.
        scenes: that are drawn; None where the user named a folder of data.
    """

    rows: dict[str, list[Cell]]
    tasks: dict[str, Task]
    scenes: Scenes | None

    @property
    def cells(self) -> list[Cell]:
        """Every cell once, those of one checkpoint together, and of these the ones of one seed."""
        cells = dict.fromkeys(cell for cells in self.rows.values() for cell in cells)
        return sorted(cells, key=lambda cell: (cell.model or "", cell.seed))


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
        if not names:
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
    for name, task in tasks.items():
        if (part := grid.by_task.get(name)) is not None:
            check_answering(task, part.answering)
    planner = _Planner(grid, wanted, wanted.data or data)
    rows = {name: planner.row(method_named(name), count, tasks) for name, count in seeds.items()}
    rows = {name: cells for name, cells in rows.items() if cells}
    if not rows:
        raise UserError("no row has a seed: give more --seeds, or other rows")
    return Plan(rows, tasks, grid.scenes if wanted.data is None else None)


def experiment_in(grid: Grid, wanted: Wanted, data: Path, task: Task, method: str, seed: int) -> Experiment:
    """A run of a grid as a file, with what is asked of it. What is said of decoding or ranking holds where
    answers come about in that way.

    Args:
        grid, wanted: as for :func:`plan_table`.
        data: folder of the data sets.
        task, method, seed: of the run.
    """
    more: dict[str, Any] = {"seed": seed, "model": wanted.model_of(grid, seed)}
    more |= {"scenes": grid.scenes} if wanted.data is None else {"data": str(wanted.data)}
    experiment = grid.experiment(method, task, **more)
    answering = experiment.answering
    ranks = answering != GENERATE and isinstance(task.answering(data), Ranking)
    idle = {"ranking": ListRanking()}
    if ranks or (task.ranks and answering == RANK):
        idle = {"decoding": TextDecoding()}
    return experiment.model_copy(update=idle)


class _Planner:
    """Makes each cell once."""

    def __init__(self, grid: Grid, wanted: Wanted, data: Path):
        self.grid, self.wanted, self.data, self.chosen = grid, wanted, data, grid.chosen
        self.made: dict[tuple[str, str, int], Cell] = {}
        self.counted: dict[str, int] = {}

    def row(self, method: Method, count: int, tasks: dict[str, Task]) -> list[Cell]:
        """The cells of a row. Without training there is one run for each checkpoint at most."""
        trained = method if method.repeats is None else method_named(method.repeats)
        checkpoints = 1 if self.wanted.model is not None else self.grid.checkpoints
        seeds = range(count)
        if not method.trains:
            seeds = range(min(count, checkpoints))
        elif self.wanted.seeds is not None:
            seeds = self.wanted.seeds
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
        return method.settings(self.chosen, task.name), method.rate(self.chosen, task.name)

    def _cell(self, method: Method, task: Task, seed: int) -> Cell:
        key = (method.name, task.name, seed)
        if key not in self.made:
            wanted = self.wanted
            experiment = experiment_in(self.grid, wanted, self.data, task, method.name, seed)
            cell = cell_of(experiment, self.data, self.chosen, self.counted)
            self.made[key] = replace(cell, checkpoint=wanted.model is None and cell.model is not None)
        return self.made[key]


def check_checkpoints(cells: Sequence[Cell]) -> None:
    """Raise :class:`~attngraph.UserError` where a checkpoint of cells is missing; it says how to make it."""
    for model in dict.fromkeys(cell.model for cell in cells if cell.checkpoint):
        place = Path(str(model))
        if not (place / "model.safetensors").is_file():
            seed = place.name.removeprefix("seed")
            raise UserError(
                f"{place} is missing, the checkpoint of pre-training seed {seed}: make it with attngraph "
                f"pretrain --seed {seed} --out {place}"
            )
