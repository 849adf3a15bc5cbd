"""Paired comparisons of methods over images, seeds and checkpoints, with Holm's correction.

Two methods A and B were trained with the same seeds :math:`s = 1..S` and scored on the same examples
:math:`i = 1..N`. A score is a function of *summed* per-example statistics (see
:mod:`attngraph.experiments.metrics.statistics`), so the score without one example is the score of a
difference of sums: nothing is scored again. Omitting each example in turn, for every seed of both methods at
once, gives the covariance of the seeds' differences over new examples (:func:`image_covariance`). The
variance between seeds, and between the pre-trained checkpoints that seeds start from, is added as in
:mod:`attngraph.experiments.tables.variance`.

Efron and Stein, The jackknife estimate of variance (1981).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from attngraph.errors import UserError
from attngraph.experiments.base.messages import check_known
from attngraph.experiments.base.progress import Progress
from attngraph.experiments.methods import method_named
from attngraph.experiments.methods.method import ADAPTERS, canonical
from attngraph.experiments.metrics.statistics import Score, mean_score
from attngraph.experiments.tables.frame import Scores, scores_of, task_of
from attngraph.experiments.tables.runs import Run
from attngraph.experiments.tables.variance import Variance, variances
from attngraph.experiments.tasks.task import Column
from attngraph.names import spelled

LEVEL = 0.95  # coverage of intervals
EQUIVALENCE = ("equivalent_p", "new_equivalent_p")


@dataclass(frozen=True)
class Comparison:
    """Method A minus method B: for new images and, with several seeds, new seeds of these checkpoints.

    Args:
        difference: mean difference over seeds, in the unit of the score.
        low, high: its 95 % confidence interval.
        p: two-sided p-value of "no difference".
        seeds, images: numbers of paired seeds and images; images of the smallest test set.
        checkpoints: number of pre-trained checkpoints that these seeds started from.
        speaks_for: population of the p-value: "seeds and images", or with one seed "images"; always with
            these checkpoints.
        by_checkpoint: the mean difference with each checkpoint, in order of occurrence.
        new_low, new_high, new_p: the same for new checkpoints; None with one checkpoint.
        equivalent_p, new_equivalent_p: p-values of "beyond the margin", for these and for new checkpoints;
            None without a margin.
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
    equivalent_p: float | None = None
    new_equivalent_p: float | None = None


def paired_comparison(
    a: np.ndarray | Sequence[np.ndarray],
    b: np.ndarray | Sequence[np.ndarray],
    score: Score = mean_score,
    *,
    checkpoints: Sequence[object] | None = None,
    margin: float | None = None,
) -> Comparison:
    """Compare two methods on the same seeds and examples.

    Args:
        a, b: statistics ``(S, N, K)``, row s of both from the same seed, column i from the same example. For
            a score of several test sets (an average of columns), a list with one array per test set: they
            share the seeds, and their examples are independent.
        score: maps summed statistics ``(..., K)``, one argument per test set, to scores ``(...)``.
        checkpoints: pre-trained weights of each seed; None if all seeds start from the same weights.
        margin: also test that the methods differ by less than this, in the unit of the score
            (:meth:`attngraph.experiments.tables.variance.Variance.equivalence_p`).

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
    equivalent = [
        None if margin is None or variance is None else variance.equivalence_p(difference, margin)
        for variance in (these, new)
    ]
    return Comparison(
        difference,
        *_interval(difference, these),
        seeds,
        examples,
        len(groups),
        "seeds and images" if seeds > 1 else "images",
        [float(per_seed[group].mean()) for group in groups],
        *((None, None, None) if new is None else _interval(difference, new)),
        *equivalent,
    )


def image_covariance(parts: Sequence[np.ndarray], score: Score) -> np.ndarray:
    r"""Covariance ``(S, S)`` of the seeds' differences of two methods over new examples, by the jackknife.

    With :math:`\theta_{(i)}` the seeds' differences without example i,

    .. math:: \frac{N-1}{N} \sum_i (\theta_{(i)} - \bar\theta)(\theta_{(i)} - \bar\theta)^\top ,

    summed over test sets. For means over examples (CIDEr, VQA accuracy) this is the exact covariance of
    means, sample covariance / N; for ratios of sums and BLEU it is that of their linear part. No random
    numbers are involved.

    Args:
        parts: statistics ``(2, S, N, K)`` of both methods, one array per test set.
        score: as in :func:`paired_comparison`.
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
    """Low, high and p-value."""
    reach = variance.reach(LEVEL)
    return difference - reach, difference + reach, float(variance.p_values(difference))


def holm(p_values: Sequence[float]) -> np.ndarray:
    r"""Holm's step-down adjusted p-values, in the given order.

    .. math:: \tilde p_{(k)} = \max_{j \le k} \min\big(1, (m - j + 1)\, p_{(j)}\big)
    """
    from statsmodels.stats.multitest import multipletests  # slow to import

    return multipletests(p_values, method="holm")[1] if len(p_values) else np.zeros(0)


def p_text(p: float, digits: int = 4) -> str:
    """A p-value as text; one that rounds to 0 is less than the last digit, and one below the level has as
    many digits as show it."""
    level = round(1 - LEVEL, 9)
    while p < level <= round(p, digits):
        digits += 1
    return f"{p:.{digits}f}" if round(p, digits) else f"< {10**-digits:.{digits}f}"


def contenders(runs: Sequence[Run]) -> list[str]:
    """The rows that are compared in one family by default: the GNN adapters and pGNN's controls."""
    methods = {run.row: run.method for run in runs}
    return [row for row, method in methods.items() if method.group == ADAPTERS or method.control]


def compare_pairs(
    scores: Scores,
    pairs: Sequence[tuple[str, str]],
    columns: Sequence[str] | None = None,
    margin: float | None = None,
) -> list[dict[str, Any]]:
    """Paired comparisons over seeds and images, Holm-corrected over all of them. Columns in which two rows
    differ only in their names are skipped: differences would be due to machines or code, and not a finding.

    A mean of columns has one test set per task: the columns of one task share the images.

    Args:
        scores: scores of the whole table; only seeds that both methods ran on all tasks of a column are
            compared.
        pairs: names of a method and of the method to subtract.
        columns: keys of the columns to compare; None for all.
        margin: see :func:`paired_comparison`.

    Returns:
        One dictionary for each pair and column: ``row`` and ``baseline`` (titles), ``column`` (key), the
        fields of :class:`Comparison`, and ``p_holm`` and ``new_p_holm``, corrected over all comparisons. With
        a margin also ``margin``, ``equivalent_p_holm`` and ``new_equivalent_p_holm``; otherwise there are no
        p-values of equivalence.

    Raises:
        UserError: runs of one seed start from different checkpoints, runs were scored on different examples,
            or their files cannot be read.
    """
    places = {(run.row, run.task, run.seed): run for run in scores.runs}
    every = {column.key: column for column in scores.columns}
    keys = [key for key in scores.weights if columns is None or key in columns]
    asked = [(row, baseline, key) for row, baseline in pairs for key in keys]
    lines: list[dict[str, Any]] = []
    for row, baseline, key in Progress(asked, desc="comparisons", unit="", leave=False, delay=5):
        members = [(every[one], weight) for one, weight in scores.weights[key].items()]
        if found := _compared(places, row, baseline, members, margin):
            titles = {"row": method_named(row).title, "baseline": method_named(baseline).title}
            lines.append({**titles, "column": key, **asdict(found)})
    tests = ("p", "new_p") if margin is None else ("p", "new_p", *EQUIVALENCE)
    for line in lines:
        line |= dict.fromkeys(f"{name}_holm" for name in tests)
        if margin is not None:
            line["margin"] = margin
        else:
            for name in EQUIVALENCE:
                del line[name]
    for name in tests:
        held = [line for line in lines if line[name] is not None]
        for line, p in zip(held, holm([line[name] for line in held]), strict=True):
            line[f"{name}_holm"] = float(p)
    return lines


def _compared(
    places: Mapping[tuple[str, str, int], Run],
    row: str,
    baseline: str,
    members: Sequence[tuple[Column, float]],
    margin: float | None = None,
) -> Comparison | None:
    """The comparison of a weighted sum of columns; None if the two methods share no seed, differ only in
    their names, or have a test set of one image, which says nothing about others.
    """
    by_task: dict[str, list[tuple[Column, float]]] = {}
    for column, weight in members:
        by_task.setdefault(task_of(column.key), []).append((column, weight))
    seeds = [
        seed
        for seed in sorted({seed for _, _, seed in places})
        if all(
            (run := places.get((name, task, seed))) and all(c.key in run.result["scores"] for c, _ in of)
            for name in (row, baseline)
            for task, of in by_task.items()
        )
    ]
    pairs = [[places[name, task, seed] for name in (row, baseline)] for task in by_task for seed in seeds]
    if all(one.identity == other.identity for one, other in pairs):
        return None
    if said := unlike([run for pair in pairs for run in pair]):
        raise UserError(said)
    # the columns of a task stand side by side: its images are drawn for all of them at once
    sides = [
        [
            np.stack(
                [
                    np.concatenate([places[name, task, seed].statistics[c.key] for c, _ in of], axis=-1)
                    for seed in seeds
                ]
            )
            for task, of in by_task.items()
        ]
        for name in (row, baseline)
    ]
    if min(side.shape[1] for side in sides[0]) < 2:
        return None
    ends = [
        np.cumsum([places[row, task, seeds[0]].statistics[c.key].shape[-1] for c, _ in of])
        for task, of in by_task.items()
    ]

    def score(*totals: np.ndarray) -> np.ndarray:
        scores = [
            weight * column.score(part)
            for total, end, of in zip(totals, ends, by_task.values(), strict=True)
            for (column, weight), part in zip(of, np.split(total, end[:-1], axis=-1), strict=True)
        ]
        return sum(scores[1:], scores[0])

    checkpoints = [one.checkpoint for one, _ in pairs[: len(seeds)]]
    return paired_comparison(*sides, score, checkpoints=checkpoints, margin=margin)


def unlike(runs: Sequence[Run]) -> str:
    """The reason why runs cannot be compared in pairs: they were scored on different examples of a task, or
    trained with different numbers of steps or examples, or runs of the same seed started from different
    weights. Empty if they can be compared.
    """
    of_task: dict[str, Run] = {}
    trained: dict[str, Run] = {}
    of_seed: dict[int, Run] = {}
    for run in runs:
        if run.examined != (other := of_task.setdefault(run.task, run)).examined:
            return (
                f"{other} and {run} were scored on different examples, so they cannot be compared: use runs "
                "of one table; if images were missing in one of them, remove its folder and run it again"
            )
        if run.budget and run.budget != (other := trained.setdefault(run.task, run)).budget:
            return (
                f"{other} and {run} were trained with different numbers of steps or examples, or batches of "
                "different sizes, so they cannot be compared: use runs of one table"
            )
        if run.checkpoint != (other := of_seed.setdefault(run.seed, run)).checkpoint:
            return (
                f"{other} and {run} started from different weights: runs of one seed are compared as pairs, "
                "so use the same --model for a seed in every row"
            )
    return ""


def row_of(name: str, rows: Sequence[str]) -> str:
    """The row of a method's name, alias or other spelling; the name itself if there is no such row."""
    return name if name in rows else spelled(canonical(name), rows)


def recompute(
    runs: Sequence[Run],
    baselines: Sequence[str],
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    margin: float | None = None,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """All comparisons with the baselines, and the heading of each column.

    Args:
        runs: runs read by :func:`attngraph.experiments.tables.runs.saved_runs`.
        baselines: names of rows.
        rows: names of the rows to compare with each baseline, each two rows once; None for
            :func:`contenders`.
        columns: keys of columns; None for all.
        margin: see :func:`paired_comparison`.

    Raises:
        UserError: a row or column is not among the runs, or nothing can be compared.
    """
    held = list(dict.fromkeys(run.row for run in runs))
    rows = contenders(runs) if rows is None else rows
    baselines, rows = ([row_of(name, held) for name in names] for names in (baselines, rows))
    check_known([*baselines, *rows], held, "row")
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    for baseline, row in product(baselines, rows):
        if row != baseline:
            pairs.setdefault(frozenset((row, baseline)), (row, baseline))
    scores = scores_of(runs)
    headings = {column.key: column.heading for column in scores.columns}
    if columns is not None:
        check_known(columns, list(headings), "column")
    lines = compare_pairs(scores, [*pairs.values()], columns, margin)
    if not lines:
        raise UserError(
            f"no row can be compared with {', '.join(baselines)}: they share no seed, have a single test "
            "image, differ only in their names, or are not GNN adapters; choose rows with --rows from "
            f"{', '.join(held)}"
        )
    return lines, headings
