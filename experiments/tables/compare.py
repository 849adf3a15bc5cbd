"""Methods against one another: paired comparisons over images, seeds and checkpoints, Holm-corrected.

Two methods A and B were trained with the same seeds :math:`s = 1..S` and scored on the same examples
:math:`i = 1..N`. A score is a function of *summed* per-example statistics (see
:mod:`experiments.metrics.statistics`), so the score without one example is the score of a difference of
sums: nothing is scored again. Leaving out each example in turn, for every seed of both methods at once, gives
the covariance of the seeds' differences over new examples (:func:`image_covariance`). What differs between
seeds, and between the pre-trained checkpoints that seeds start from, is added as
:mod:`experiments.tables.variance` says.

Efron and Stein, The jackknife estimate of variance (1981).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from attngraph.errors import UserError
from experiments.base.messages import check_known
from experiments.base.progress import Progress
from experiments.methods import method_named
from experiments.methods.method import ADAPTERS
from experiments.metrics.statistics import Score, mean_score
from experiments.tables.frame import (
    AVERAGE,
    WAY,
    averaged_columns,
    score_frame,
    scored,
    table_columns,
    way_between,
)
from experiments.tables.runs import Run, cannot_differ
from experiments.tables.variance import Variance, variances
from experiments.tasks import TASKS
from experiments.tasks.task import Column, Task

LEVEL = 0.95  # coverage of intervals
IMAGES, SEEDS = "images", "seeds and images"  # what a comparison speaks for
BASELINE = "gcn"
Weights = Mapping[str, float]  # column key -> weight in a mean of columns


# ---- one difference -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Method A minus method B: for new images and, with several seeds, new seeds of these checkpoints.

    Args:
        difference: mean difference over seeds, in the unit of the score.
        low, high: its 95 % confidence interval.
        p: two-sided, of "no difference".
        seeds, images: how many of each were paired; images of the smallest test set.
        checkpoints: how many pre-trained checkpoints these seeds started from.
        speaks_for: :data:`SEEDS`, or with one seed :data:`IMAGES`; always with these checkpoints.
        by_checkpoint: the mean difference with each checkpoint, in the order in which they occur.
        new_low, new_high, new_p: the same for new checkpoints too; None with one checkpoint.
    """

    difference: float
    low: float
    high: float
    p: float
    seeds: int
    images: int
    checkpoints: int
    speaks_for: str
    by_checkpoint: list[float]
    new_low: float | None = None
    new_high: float | None = None
    new_p: float | None = None


def paired_comparison(
    a: np.ndarray | Sequence[np.ndarray],
    b: np.ndarray | Sequence[np.ndarray],
    score: Score = mean_score,
    *,
    checkpoints: Sequence[object] | None = None,
) -> Comparison:
    """Compare two methods on the same seeds and examples.

    Args:
        a, b: statistics ``(S, N, K)``, row s of both from the same seed, column i from the same example. For
            a score made of several test sets (an average of columns), a list with one array per test set:
            they share the seeds, and their examples are independent.
        score: from summed statistics ``(..., K)``, one argument per test set, to scores ``(...)``.
        checkpoints: which pre-trained weights each seed started from; None for one and the same.

    Example:
        >>> a, b = np.array([[1., 1., 0., 1.]]), np.array([[1., 0., 0., 1.]])
        >>> paired_comparison(mean_statistics(a), mean_statistics(b)).difference
        0.25
    """
    sides = [side if isinstance(side, (list, tuple)) else [side] for side in (a, b)]
    parts = [np.stack(pair) for pair in zip(*sides, strict=True)]  # (2, S, N, K)
    seeds, examples = parts[0].shape[1], min(part.shape[2] for part in parts)
    checkpoints = [None] * seeds if checkpoints is None else list(checkpoints)

    both = score(*[part.sum(axis=2) for part in parts])  # (2, S)
    per_seed = both[0] - both[1]  # (S,)
    these, new = variances(per_seed, image_covariance(parts, score), checkpoints, examples)
    difference = float(per_seed.mean())
    groups = [[one == label for one in checkpoints] for label in dict.fromkeys(checkpoints)]
    return Comparison(
        difference,
        *_interval(difference, these),
        seeds,
        examples,
        len(groups),
        SEEDS if seeds > 1 else IMAGES,
        [float(per_seed[group].mean()) for group in groups],
        *(() if new is None else _interval(difference, new)),
    )


def image_covariance(parts: Sequence[np.ndarray], score: Score) -> np.ndarray:
    r"""Covariance ``(S, S)`` of the seeds' differences of two methods over new examples, by the jackknife.

    With :math:`\theta_{(i)}` the seeds' differences without example i,

    .. math:: \frac{N-1}{N} \sum_i (\theta_{(i)} - \bar\theta)(\theta_{(i)} - \bar\theta)^\top ,

    summed over test sets. Where every example counts the same (CIDEr, VQA accuracy) this is the exact
    covariance of means, sample covariance / N; for ratios of sums and BLEU it is that of their linear part.
    No random numbers are involved.

    Args:
        parts: statistics ``(2, S, N, K)`` of both methods, one array per test set.
        score: as of :func:`paired_comparison`.
    """
    totals = [part.sum(axis=2, keepdims=True) for part in parts]  # (2, S, 1, K)
    seeds = parts[0].shape[1]
    covariance = np.zeros((seeds, seeds))
    for k, part in enumerate(parts):
        examples = part.shape[2]
        if examples == 1:
            continue  # a single example says nothing about others
        left = score(*totals[:k], totals[k] - part, *totals[k + 1 :])  # (2, S, N)
        centred = left[0] - left[1]
        centred = centred - centred.mean(axis=1, keepdims=True)
        covariance += (examples - 1) / examples * centred @ centred.T
    return covariance


def _interval(difference: float, variance: Variance) -> tuple[float, float, float]:
    """Low, high and p value."""
    reach = variance.reach(LEVEL)
    return difference - reach, difference + reach, float(variance.p_values(difference))


def holm(p_values: Sequence[float]) -> np.ndarray:
    r"""Holm's step-down adjusted p values, in the given order.

    .. math:: \tilde p_{(k)} = \max_{j \le k} \min\big(1, (m - j + 1)\, p_{(j)}\big)
    """
    from statsmodels.stats.multitest import multipletests  # slow to import

    return multipletests(p_values, method="holm")[1] if len(p_values) else np.zeros(0)


# ---- rows of a table --------------------------------------------------------------------------------------


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
    methods = {run.row: run.method for run in runs}
    return [row for row in methods if methods[row].group == ADAPTERS or methods[row].control]


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
        One dictionary for each pair and column: ``row`` and ``baseline`` (titles), ``column`` (key), the
        fields of :class:`Comparison`, and ``p_holm`` and ``new_p_holm``, corrected over all comparisons.

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
    listed = "; ".join(
        f"{method_named(row).title} = {method_named(baseline).title} "
        f"({', '.join(task.title for name, task in tasks.items() if name in names)})"
        for (row, baseline), names in same.items()
        if names
    )
    return f"Not compared, since only their names differ: {listed}." if listed else ""


def unlike(runs: Sequence[Run]) -> str:
    """Why runs cannot be compared as pairs: they were scored on different examples of a task, or those of a
    seed started from different weights. Empty where they can.
    """
    of_task: dict[str, Run] = {}
    of_seed: dict[int, Run] = {}
    for run in runs:
        first = of_task.setdefault(run.task, run)
        if run.examined != first.examined:
            return (
                f"{first.folder} and {run.folder} were scored on different examples, so they cannot be "
                "compared: give runs of one table; if pictures were missing in one of them, remove its "
                "folder and run it again"
            )
        first = of_seed.setdefault(run.seed, run)
        if run.checkpoint != first.checkpoint:
            return (
                f"{first.folder} and {run.folder} started from different weights: runs of one seed are "
                "compared as pairs, so give a seed the same --model in every row"
            )
    return ""


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
        by_task: dict[str, list[tuple[Column, float]]] = {}
        for column, weight in members:
            by_task.setdefault(self.owner[column.key], []).append((column, weight))
        seeds = [
            seed
            for seed in self.seeds
            if all((name, task, seed) in self.runs for name in (row, baseline) for task in by_task)
        ]
        if not seeds:
            return None
        pairs = [
            self.runs[name, task, seed] for task in by_task for seed in seeds for name in (row, baseline)
        ]
        if said := unlike(pairs):
            raise UserError(said)
        # the columns of a task stand side by side: its images are drawn for all of them at once
        sides = [
            [
                np.stack([np.concatenate(self._statistics(name, task, seed, of), axis=-1) for seed in seeds])
                for task, of in by_task.items()
            ]
            for name in (row, baseline)
        ]
        ends = [
            np.cumsum([array.shape[-1] for array in self._statistics(baseline, task, seeds[0], of)])
            for task, of in by_task.items()
        ]

        def score(*totals: np.ndarray) -> np.ndarray:
            scores = [
                weight * column.score(part)
                for total, end, of in zip(totals, ends, by_task.values(), strict=True)
                for (column, weight), part in zip(of, np.split(total, end[:-1], axis=-1), strict=True)
            ]
            return sum(scores[1:], scores[0])

        checkpoints = [self.runs[row, next(iter(by_task)), seed].checkpoint for seed in seeds]
        return asdict(paired_comparison(sides[0], sides[1], score, checkpoints=checkpoints))

    def _statistics(
        self, row: str, task: str, seed: int, members: Sequence[tuple[Column, float]]
    ) -> list[np.ndarray]:
        place = (row, task, seed)
        if place not in self.arrays:
            keys = [key for key, owner in self.owner.items() if owner == task]
            self.arrays[place] = dict(zip(keys, self.runs[place].statistics(keys), strict=True))
        return [self.arrays[place][column.key] for column, _ in members]


# ---- all comparisons of saved runs -----------------------------------------------------------------------


def recompute(
    runs: Sequence[Run],
    baselines: Sequence[str],
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> tuple[list[dict[str, Any]], Mapping[str, str], str]:
    """All comparisons with some baselines, the heading of each column, and a sentence on rows that
    differ in nothing but their names and so are not compared.

    Args:
        runs: as :func:`experiments.tables.runs.saved_runs` reads them.
        baselines: names of rows.
        rows: names of the rows that are compared with each of them; None for the GNN adapters and pGNN's
            controls.
        columns: keys of columns; None for all.

    Raises:
        UserError: a row or column is not among the runs, or nothing can be compared.
    """
    held = list(dict.fromkeys(run.row for run in runs))
    check_known(baselines, held, "row")
    if rows is None:
        rows = contenders(runs)
    else:
        check_known(rows, held, "row")
    names = {run.task for run in runs}
    every = {name: task for name, task in TASKS.items() if name in names}
    tasks: dict[str, Task] = scored(every, runs)
    shown = table_columns(tasks)
    way, _ = way_between(score_frame(runs), shown)
    means = {WAY.key: way.weights} if way else {}
    headings = {column.key: column.heading for column in (*shown, *((WAY,) if way else ()))}
    if columns is not None:
        check_known(columns, list(headings), "column")
    pairs = [(row, baseline) for baseline in baselines for row in rows if row != baseline]
    lines = compare_pairs(runs, tasks, pairs, columns=columns, means=means)
    about = about_same_runs(same_runs(runs, pairs), tasks)
    if not lines:
        reason = about[:1].lower() + about[1:-1] if about else "they share no seed, or none is a GNN adapter"
        raise UserError(
            f"no row can be compared with {', '.join(baselines)}: {reason}; name rows with --rows, of "
            f"{', '.join(held)}"
        )
    return lines, headings, about
