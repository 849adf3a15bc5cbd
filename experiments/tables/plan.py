"""From a grid to the runs of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from attngraph.experiments.base.messages import check_known
from attngraph.experiments.data.layouts import LAYOUTS
from attngraph.experiments.methods import METHODS, GraphAdapter, Method, method_named
from attngraph.experiments.methods.method import REFERENCE, canonical, known_methods
from attngraph.experiments.models.ranking import Ranking
from attngraph.experiments.runs.answering import GENERATE, RANK, check_answering
from attngraph.experiments.runs.experiment import Cell, Experiment, ListRanking, Scenes, TextDecoding
from attngraph.experiments.runs.plan import cell_of, written_out
from attngraph.experiments.tables.grid import MOST_SEEDS, Grid
from attngraph.experiments.tasks import TASKS, Task, tasks_named
from attngraph.extras import require


@dataclass(frozen=True)
class Plan:
    """The runs of a table.

    Args:
        rows: method -> its runs; a run may occur in two rows.
        tasks: tasks by name, in the order of the columns.
    """

    rows: dict[str, list[Cell]]
    tasks: dict[str, Task]

    @property
    def cells(self) -> list[Cell]:
        """Every run once, grouped by checkpoint and then by seed."""
        cells = dict.fromkeys(cell for cells in self.rows.values() for cell in cells)
        return sorted(cells, key=lambda cell: (cell.model or "", cell.seed))


def tasks_of(grid: Grid, names: Sequence[str] | None, data: Path | None) -> dict[str, Task]:
    """The tasks of a table or a search.

    Args:
        grid: the grid.
        names: tasks given by the user; None for the grid's, or else for all with data in the given folder, or
            for all that do not need a folder, except those that the grid skips.
        data: the folder of datasets given by the user; None for synthetic data.

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
            raise UserError("the preset skips every task: choose some with --tasks")
        if not names:
            folders = ", ".join(task.data_set for task in TASKS.values() if task.data_set)
            raise UserError(
                f"--data {data} has no data of a task: use a folder with a subfolder for each dataset "
                f"({folders}), or a folder written by `attngraph scenes`"
            )
    tasks = tasks_named(names)
    for task in tasks.values():
        require(*task.needs)
        if data is None and grid.scenes.is_official:
            known = [*grid.scenes.published]
            known = known or [name for name, each in TASKS.items() if each.data_set in LAYOUTS]
            if task.name not in known:
                raise UserError(f"{task.name} is not a task of this size: choose from {', '.join(known)}")
        else:
            task.check(data)
    return tasks


def _is_default(task: Task, scenes: Scenes, data: Path | None) -> bool:
    if data is not None:
        return task.found(data)
    if scenes.published:
        return task.name in scenes.published
    return (task.data_set is not None) == scenes.is_official


def plan_table(
    grid: Grid,
    drawn: Path = Path("data"),
    *,
    rows: Iterable[str] | None = None,
    tasks: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    model: str | None = None,
    data: Path | None = None,
) -> Plan:
    """The runs of a table.

    Args:
        grid: the grid.
        drawn: folder of the synthetic datasets.
        rows: only these methods, for a preset in addition to its reference rows; None for those of the grid.
        tasks: only these tasks; None for all.
        seeds: seeds of every row; None for the grid's number of seeds, from 0.
        model: checkpoint folder or hub name, for all seeds.
        data: folder of datasets given by the user; None for synthetic data.

    Raises:
        UserError: a name is unknown, a number out of range, no seed to run, or no data.
    """
    if data is not None and not data.is_dir():
        raise UserError(f"--data {data} is not a folder: use the folder of the datasets")
    if seeds is not None and not 1 <= len(seeds) <= MOST_SEEDS:
        raise UserError(f"--seeds must be at least 1 and at most {MOST_SEEDS}, got {len(seeds)}")
    counts = grid.counts
    if not any(counts.values()):
        raise UserError("the file has no runs: add at least one seed of a method (seeds: {gcn: 1})")
    if rows is not None:
        named = list(map(canonical, rows))
        check_known(named, list(counts) if grid.rows else known_methods(), "method")
        if grid.rows:
            counts = {name: count for name, count in counts.items() if name in named}
        else:
            references = {name: n for name, n in counts.items() if method_named(name).group == REFERENCE}
            counts = {**{name: counts.get(name, max(counts.values())) for name in named}, **references}
    columns = tasks_of(grid, tasks, data)
    for name, task in columns.items():
        if (part := grid.by_task.get(name)) is not None:
            check_answering(task, part.answering)
    planner = _Planner(grid, drawn, model, data)
    planned = {
        name: planner.row(method_named(name), range(count) if seeds is None else seeds, columns)
        for name, count in counts.items()
    }
    planned = {name: cells for name, cells in planned.items() if cells}
    if not planned:
        raise UserError("no row has a seed: use more --seeds, or other rows")
    return Plan(planned, columns)


class _Planner:
    """Constructs each run once, with the arguments of :func:`plan_table`."""

    def __init__(self, grid: Grid, drawn: Path, model: str | None, data: Path | None):
        self.grid, self.drawn, self.model, self.data = grid, drawn, model, data
        self.chosen = written_out(grid.own_settings)
        self.made: dict[tuple[str, str, int], Cell] = {}
        self.counted: dict[str, int] = {}

    def row(self, method: Method, seeds: Sequence[int], tasks: dict[str, Task]) -> list[Cell]:
        """The runs of a row; without training, one for each checkpoint of the seeds."""
        trained = method if method.repeats is None else method_named(method.repeats)
        if not method.trains:
            checkpoints = 1 if self.model is not None else len(self.grid.pretrained)
            seeds = sorted({seed % checkpoints for seed in seeds})
        return [
            self._cell(self._plain(trained, task), task, seed) for seed in seeds for task in tasks.values()
        ]

    def _plain(self, method: Method, task: Task) -> Method:
        """The method whose run is used for a row: if the width of the row's bottleneck is the chosen one and
        nothing else differs, it is the method that the row follows, so that no run is duplicated.
        """
        if not isinstance(method, GraphAdapter) or method.reduction is None:
            return method
        plain = METHODS[method.leader]
        return plain if self._decided(plain, task) == self._decided(method, task) else method

    def _decided(self, method: Method, task: Task) -> tuple[dict[str, Any], float]:
        """The settings and the learning rate of a method on a task."""
        return method.settings(self.chosen, task.name), method.rate(self.chosen, task.name)

    def _cell(self, method: Method, task: Task, seed: int) -> Cell:
        """A run of the grid. Its options of decoding or ranking are used if the answering mode matches."""
        key = (method.name, task.name, seed)
        if key not in self.made:
            assigned = self.grid.model_of(seed)
            more: dict[str, Any] = {"seed": seed, "model": self.model or assigned, "data": self.data}
            if self.data is None:
                more["scenes"] = self.grid.scenes
            experiment = self.grid.experiment(method.name, task, **more)
            idle = (
                {"decoding": TextDecoding()} if self._ranks(task, experiment) else {"ranking": ListRanking()}
            )
            cell = cell_of(experiment.model_copy(update=idle), self.drawn, self.chosen, self.counted)
            is_assigned = self.model is None and assigned is not None
            self.made[key] = cell.model_copy(update={"checkpoint": is_assigned})
        return self.made[key]

    def _ranks(self, task: Task, experiment: Experiment) -> bool:
        if experiment.answering == GENERATE:
            return False
        if task.ranks and experiment.answering == RANK:
            return True
        return isinstance(task.answering(self.data or self.drawn), Ranking)


def check_checkpoints(cells: Sequence[Cell]) -> None:
    """Raise :class:`~attngraph.UserError` if a checkpoint of the runs is missing, with the command that makes
    it.
    """
    for model in dict.fromkeys(cell.model for cell in cells if cell.checkpoint):
        place = Path(str(model))
        if not (place / "model.safetensors").is_file():
            seed = place.name.removeprefix("seed")
            raise UserError(
                f"{place}, the checkpoint of pre-training seed {seed}, is missing: make it with attngraph "
                f"pretrain --seed {seed} --out {place}"
            )
