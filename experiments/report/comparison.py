"""Methods against one another, in every column of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from attngraph.errors import UserError
from experiments.methods.graph_adapter import method_named
from experiments.methods.method import ADAPTERS
from experiments.metrics.statistics import Score
from experiments.progress import Progress
from experiments.report.columns import AVERAGE, averaged_columns, table_columns
from experiments.report.runs import Run, cannot_differ, distinct
from experiments.report.significance import holm, paired_comparison
from experiments.tasks.task import Column, Task

BASELINE = "gcn"
Weights = Mapping[str, float]  # column key -> weight in a mean of columns


def compare_with_baseline(
    runs: Sequence[Run],
    tasks: Mapping[str, Task],
    baseline: str = BASELINE,
    means: Mapping[str, Weights] | None = None,
) -> list[dict[str, Any]]:
    """The :func:`contenders` against the baseline in every column, as :func:`compare_pairs` returns it."""
    pairs = [(row, baseline) for row in contenders(runs) if row != baseline]
    return compare_pairs(runs, tasks, pairs, means=means)


def contenders(runs: Sequence[Run]) -> list[str]:
    """The rows that are compared in one family where none are named: the GNN adapters and pGNN's controls."""
    rows = dict.fromkeys(run.row for run in runs)
    return [row for row in rows if method_named(row).group == ADAPTERS or method_named(row).control]


def compare_pairs(
    runs: Sequence[Run],
    tasks: Mapping[str, Task],
    pairs: Sequence[tuple[str, str]],
    *,
    columns: Sequence[str] | None = None,
    means: Mapping[str, Weights] | None = None,
) -> list[dict[str, Any]]:
    """Paired comparisons over seeds and images, Holm-corrected over all of them. Columns in which both rows
    cannot differ (:func:`same_runs`) are left out.

    A mean of columns is made of one test set per task: the columns of one task share the resampled images.

    Args:
        runs: of the whole table; only the seeds that both methods ran on all tasks of a column are compared.
        tasks: of the table, in its order.
        pairs: names of a method and of the one that is subtracted.
        columns: keys of the columns to compare; None for all.
        means: key -> weights of the columns whose weighted sum it is, beside the average. A constant
            offset, as of a frozen model's score, leaves differences as they are.

    Returns:
        One dictionary for each pair and column:

        ==================================== ==========================================================
        ``row``, ``baseline``, ``column``    titles, key
        ``difference``                       mean over seeds
        ``low``, ``high``, ``p``             95 % interval and p value for what ``speaks_for`` names
        ``p_holm``                           p corrected over all comparisons
        ``seeds``, ``images``                paired; images of the smallest test set
        ``checkpoints``                      number of pre-trained checkpoints of these seeds
        ``speaks_for``                       new ``images``, or new ``seeds and images``
        ``by_checkpoint``                    mean difference with each checkpoint
        ``new_low``, ``new_high``,           the same for new checkpoints too; None with one checkpoint
        ``new_p``, ``new_p_holm``
        ==================================== ==========================================================

    Raises:
        UserError: runs of one seed start from different checkpoints, runs were scored on different examples,
            or files of theirs cannot be read.
    """
    pool, same = _Pool(runs, tasks), same_runs(runs, pairs)
    shown = table_columns(tasks)
    by_key, averaged = {column.key: column for column in shown}, averaged_columns(shown)
    weights: dict[str, Weights] = {column.key: {column.key: 1.0} for column in shown}
    if AVERAGE in shown:
        weights[AVERAGE.key] = {column.key: 1 / len(averaged) for column in averaged}
    weights.update(means or {})
    asked = [
        (pair, key)
        for pair in pairs
        for key in weights
        if (columns is None or key in columns) and not pool.tasks_of(weights[key]) <= same[pair]
    ]
    lines = []
    for (row, baseline), key in Progress(asked, desc="comparisons", unit="", leave=False, delay=5):
        line = pool.compare(row, baseline, [(by_key[one], weight) for one, weight in weights[key].items()])
        if line:
            titles = {"row": method_named(row).title, "baseline": method_named(baseline).title}
            lines.append({**titles, "column": key, **line})
    adjusted = holm([line["p"] for line in lines])
    adjusted_new = iter(holm([line["new_p"] for line in lines if line["new_p"] is not None]))
    return [
        {
            **line,
            "p_holm": float(p),
            "new_p_holm": None if line["new_p"] is None else float(next(adjusted_new)),
        }
        for line, p in zip(lines, adjusted, strict=True)
    ]


def same_runs(runs: Sequence[Run], pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], set[str]]:
    """The tasks on which two rows differ in nothing but their names, for each pair of rows. A difference of
    their scores would be one of machines, or of code, and no finding.
    """
    by_place = {(run.row, run.task, run.seed): run for run in runs}
    same: dict[tuple[str, str], set[str]] = {}
    for row, baseline in pairs:
        shared = [
            (run, by_place[baseline, run.task, run.seed])
            for run in runs
            if run.row == row and (baseline, run.task, run.seed) in by_place
        ]
        different = {one.task for one, other in shared if not cannot_differ(one, other)}
        same[row, baseline] = {one.task for one, _ in shared} - different
    return same


def about_same_runs(same: Mapping[tuple[str, str], set[str]], tasks: Mapping[str, Task]) -> str:
    """What is to be said of them; empty where there are none."""
    listed = _equations(same, tasks)
    return f"Not compared, since only their names differ: {listed}." if listed else ""


def about_rows_alike(runs: Sequence[Run], tasks: Mapping[str, Task]) -> str:
    """A sentence on the rows of a table that were trained apart but differ in nothing but their names; empty
    where there are none.
    """
    apart = distinct(runs)
    rows = list(dict.fromkeys(run.row for run in apart))
    same = same_runs(apart, [(row, first) for at, row in enumerate(rows) for first in rows[:at]])
    told: dict[str, set[str]] = {}
    for (row, _), names in same.items():
        names -= told.setdefault(row, set())
        told[row] |= names
    listed = _equations(same, tasks)
    return (
        f"Only the names differ, so a distance is one of seeds, machines or code: {listed}" if listed else ""
    )


def _equations(same: Mapping[tuple[str, str], set[str]], tasks: Mapping[str, Task]) -> str:
    return "; ".join(
        f"{method_named(row).title} = {method_named(baseline).title} "
        f"({', '.join(task.title for name, task in tasks.items() if name in names)})"
        for (row, baseline), names in same.items()
        if names
    )


class _Pool:
    """Runs by row, task and seed, with their statistics, read once."""

    def __init__(self, runs: Sequence[Run], tasks: Mapping[str, Task]) -> None:
        self.runs = {(run.row, run.task, run.seed): run for run in runs}
        self.seeds = sorted({run.seed for run in runs})
        self.owner = {column.key: name for name, task in tasks.items() for column in task.columns}
        self.arrays: dict[tuple[str, str, int], dict[str, np.ndarray]] = {}

    def tasks_of(self, columns: Iterable[str]) -> set[str]:
        """The tasks of some columns."""
        return {self.owner[key] for key in columns}

    def compare(
        self, row: str, baseline: str, members: Sequence[tuple[Column, float]]
    ) -> dict[str, Any] | None:
        """The comparison of a weighted sum of columns; None where the two methods share no seed."""
        by_task: dict[str, list[Column]] = {}
        for column, _ in members:
            by_task.setdefault(self.owner[column.key], []).append(column)
        seeds = [
            seed
            for seed in self.seeds
            if all((name, task, seed) in self.runs for name in (row, baseline) for task in by_task)
        ]
        if not seeds:
            return None
        for task in by_task:
            self._check_examples([self.runs[name, task, seed] for seed in seeds for name in (row, baseline)])
        sides = [
            [self._stacked(name, task, seeds, by_task[task]) for task in by_task] for name in (row, baseline)
        ]
        score = _mean_of(
            [self._split(baseline, task, seeds[0], by_task[task]) for task in by_task],
            {column.key: weight for column, weight in members},
        )
        checkpoints = [self._checkpoint((row, baseline), by_task, seed) for seed in seeds]
        result = paired_comparison(sides[0], sides[1], score, checkpoints=checkpoints)
        new = result.new_checkpoints
        return {
            "difference": result.difference,
            "low": result.low,
            "high": result.high,
            "p": result.p_value,
            "seeds": result.seeds,
            "images": result.examples,
            "checkpoints": len(result.by_checkpoint),
            "speaks_for": result.speaks_for,
            "by_checkpoint": list(result.by_checkpoint),
            "new_low": new and new.low,
            "new_high": new and new.high,
            "new_p": new and new.p_value,
        }

    def _check_examples(self, runs: Sequence[Run]) -> None:
        """Raise UserError unless runs of a task were scored on the same examples, as pairs must be."""
        for run in runs:
            if self._examples(run) != self._examples(runs[0]):
                raise UserError(
                    f"{runs[0].folder} and {run.folder} were scored on different examples, so they cannot be "
                    "compared: give runs of one table; if pictures were missing in one of them, remove its "
                    "folder and run it again"
                )

    @staticmethod
    def _examples(run: Run) -> tuple[Any, ...]:
        """What decides on which examples a run was scored."""
        decided = (run.settings.get(name) for name in ("data", "split", "eval_examples"))
        return (*decided, run.result.get("examples"))

    def _checkpoint(self, rows: Sequence[str], tasks: Iterable[str], seed: int) -> str:
        """The checkpoint that all runs of a seed started from."""
        runs = [self.runs[row, task, seed] for row in rows for task in tasks]
        for run in runs[1:]:
            if run.checkpoint != runs[0].checkpoint:
                raise UserError(
                    f"{runs[0].folder} and {run.folder} started from different weights: runs of one seed are "
                    "compared as pairs, so give a seed the same --model in every row"
                )
        return runs[0].checkpoint

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


def _mean_of(test_sets: Sequence[Sequence[tuple[Column, slice]]], weights: Weights) -> Score:
    """The weighted sum of the columns' scores as a function of one array of summed statistics per test
    set."""

    def score(*totals: np.ndarray) -> np.ndarray:
        scores = [
            weights[column.key] * column.score(total[..., part])
            for columns, total in zip(test_sets, totals, strict=True)
            for column, part in columns
        ]
        return sum(scores[1:], scores[0])

    return score
