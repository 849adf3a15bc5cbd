"""Every GNN adapter against the baseline, in every column of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.methods.graph_adapter import method_named
from experiments.methods.method import ADAPTERS
from experiments.metrics.statistics import Score
from experiments.report.columns import AVERAGE, averaged_columns, table_columns
from experiments.report.runs import Run
from experiments.report.significance import holm, paired_bootstrap
from experiments.tasks.task import Column, Task

BASELINE = "gcn"


def compare_with_baseline(
    runs: Sequence[Run], tasks: Mapping[str, Task], baseline: str = BASELINE
) -> list[dict[str, Any]]:
    """Paired bootstrap over seeds and images, Holm-corrected over the table.

    The average is made of one test set per task: the averaged columns of one task share the resampled images.

    Args:
        runs: of the whole table; only the seeds that both methods ran on all tasks of a column are compared.
        tasks: of the table, in its order.
        baseline: name of the method that the others are compared with.

    Returns:
        One dictionary for each adapter and column: ``row`` (title), ``column`` (key), ``difference``, ``low``
        and ``high`` (95 % interval), ``p``, ``seeds``, ``images`` (of the smallest test set) and ``p_holm``.
    """
    pool = _Pool(runs, tasks)
    adapters = [row for row in dict.fromkeys(run.row for run in runs) if method_named(row).group == ADAPTERS]
    columns = table_columns(tasks)
    lines = []
    for row in adapters:
        for column in columns if row != baseline else ():
            members = averaged_columns(columns) if column == AVERAGE else [column]
            line = pool.compare(row, baseline, members)
            if line:
                lines.append({"row": method_named(row).title, "column": column.key, **line})
    adjusted = holm([line["p"] for line in lines])
    return [{**line, "p_holm": float(p)} for line, p in zip(lines, adjusted, strict=True)]


class _Pool:
    """Runs by row, task and seed, with their statistics, read once."""

    def __init__(self, runs: Sequence[Run], tasks: Mapping[str, Task]) -> None:
        self.runs = {(run.row, run.task, run.seed): run for run in runs}
        self.seeds = sorted({run.seed for run in runs})
        self.owner = {column.key: name for name, task in tasks.items() for column in task.columns}
        self.arrays: dict[tuple[str, str, int], dict[str, np.ndarray]] = {}

    def compare(self, row: str, baseline: str, members: Sequence[Column]) -> dict[str, Any] | None:
        """The comparison of the mean of some columns; None where the two methods share no seed."""
        by_task: dict[str, list[Column]] = {}
        for column in members:
            by_task.setdefault(self.owner[column.key], []).append(column)
        seeds = [
            seed
            for seed in self.seeds
            if all((name, task, seed) in self.runs for name in (row, baseline) for task in by_task)
        ]
        if not seeds:
            return None
        sides = [
            [self._stacked(name, task, seeds, by_task[task]) for task in by_task] for name in (row, baseline)
        ]
        score = _mean_of([self._split(baseline, task, seeds[0], by_task[task]) for task in by_task])
        result = paired_bootstrap(sides[0], sides[1], score)
        return {
            "difference": result.difference,
            "low": result.low,
            "high": result.high,
            "p": result.p_value,
            "seeds": result.seeds,
            "images": result.examples,
        }

    def _stacked(self, row: str, task: str, seeds: Sequence[int], columns: Sequence[Column]) -> np.ndarray:
        """Statistics ``(S, images, K)``, those of several columns side by side."""
        per_seed = []
        for seed in seeds:
            arrays = self._statistics(row, task, seed)
            per_seed.append(np.concatenate([arrays[column.key] for column in columns], axis=-1))
        return np.stack(per_seed)

    def _split(self, row: str, task: str, seed: int, columns: Sequence[Column]) -> list[tuple[Column, slice]]:
        """Where each column's statistics stand in :meth:`_stacked`."""
        arrays = self._statistics(row, task, seed)
        ends = np.cumsum([arrays[column.key].shape[-1] for column in columns])
        return [
            (column, slice(start, end))
            for column, start, end in zip(columns, [0, *ends[:-1]], ends, strict=True)
        ]

    def _statistics(self, row: str, task: str, seed: int) -> dict[str, np.ndarray]:
        place = (row, task, seed)
        if place not in self.arrays:
            keys = [key for key, owner in self.owner.items() if owner == task]
            self.arrays[place] = dict(zip(keys, self.runs[place].statistics(keys), strict=True))
        return self.arrays[place]


def _mean_of(test_sets: Sequence[Sequence[tuple[Column, slice]]]) -> Score:
    """The mean of the columns' scores as a function of one array of summed statistics per test set."""

    def score(*totals: np.ndarray) -> np.ndarray:
        scores = [
            column.score(total[..., part])
            for columns, total in zip(test_sets, totals, strict=True)
            for column, part in columns
        ]
        return sum(scores[1:], scores[0]) / len(scores)

    return score
