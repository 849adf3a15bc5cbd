"""Paired comparisons over images, seeds and checkpoints, and Holm's correction.

Two methods A and B were trained with the same seeds :math:`s = 1..S` and scored on the same examples
:math:`i = 1..N`. A score is a function of *summed* per-example statistics (see
:mod:`experiments.metrics.statistics`), so the score without one example is the score of a difference of
sums: nothing is scored again. Leaving out each example in turn, for every seed of both methods at once, gives
the covariance of the seeds' differences over new examples (:func:`image_covariance`). What differs between
seeds, and between the pre-trained checkpoints that seeds start from, is added as
:mod:`experiments.report.variance` says.

Efron and Stein, The jackknife estimate of variance (1981).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attngraph.errors import UserError
from experiments.metrics.statistics import Score, mean_score
from experiments.report.variance import Variance, variances

IMAGES, SEEDS = "images", "seeds and images"  # what a comparison speaks for


@dataclass(frozen=True)
class Interval:
    """A confidence interval and the p value that belongs to it.

    Args:
        low, high: in the unit of the score.
        p_value: two-sided, of "no difference".
    """

    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Comparison(Interval):
    """Method A minus method B: for new images and, with several seeds, new seeds of these checkpoints.

    Args:
        difference: mean difference over seeds, in the unit of the score.
        standard_error: over what ``speaks_for`` names.
        seeds, examples: how many of each were paired.
        speaks_for: :data:`SEEDS`, or with one seed :data:`IMAGES`; always with these checkpoints.
        by_checkpoint: the mean difference with each checkpoint, in the order in which they occur.
        new_checkpoints: the same difference for new checkpoints too; None with one checkpoint.
    """

    difference: float
    standard_error: float
    seeds: int
    examples: int
    speaks_for: str
    by_checkpoint: tuple[float, ...]
    new_checkpoints: Interval | None


def paired_comparison(
    a: np.ndarray | Sequence[np.ndarray],
    b: np.ndarray | Sequence[np.ndarray],
    score: Score = mean_score,
    *,
    checkpoints: Sequence[object] | None = None,
    level: float = 0.95,
) -> Comparison:
    """Compare two methods on the same seeds and examples.

    Args:
        a, b: statistics ``(S, N, K)``, row s of both from the same seed, column i from the same example. For
            a score made of several test sets (an average of columns), a list with one array per test set:
            they share the seeds, and their examples are independent.
        score: from summed statistics ``(..., K)``, one argument per test set, to scores ``(...)``.
        checkpoints: which pre-trained weights each seed started from; None for one and the same.
        level: coverage of the intervals.

    Raises:
        UserError: the two methods' arrays differ in shape or hold NaN.

    Example:
        >>> a, b = np.array([[1., 1., 0., 1.]]), np.array([[1., 0., 0., 1.]])
        >>> paired_comparison(mean_statistics(a), mean_statistics(b)).difference
        0.25
    """
    parts_a, parts_b = _parts(a), _parts(b)
    if [part.shape for part in parts_a] != [part.shape for part in parts_b]:
        raise UserError(
            "a paired comparison needs the same seeds and examples for both methods, got shapes "
            f"{[p.shape for p in parts_a]} and {[p.shape for p in parts_b]}"
        )
    parts = [np.stack(pair) for pair in zip(parts_a, parts_b, strict=True)]  # (2, S, N, K)
    if any(not np.isfinite(part).all() for part in parts):
        raise UserError("a comparison got scores that are not finite; complete the runs first")
    seeds, examples = parts[0].shape[1], min(part.shape[2] for part in parts)
    checkpoints = [None] * seeds if checkpoints is None else list(checkpoints)
    if len(checkpoints) != seeds:
        raise ValueError(f"checkpoints must be one for each of {seeds} seeds, got {len(checkpoints)}")

    both = score(*[part.sum(axis=2) for part in parts])  # (2, S)
    per_seed = both[0] - both[1]  # (S,)
    these, new = variances(per_seed, image_covariance(parts, score), checkpoints, examples)
    difference = float(per_seed.mean())
    own = _interval(difference, these, level)
    return Comparison(
        own.low,
        own.high,
        own.p_value,
        difference,
        float(these.estimate) ** 0.5,
        seeds,
        examples,
        SEEDS if seeds > 1 else IMAGES,
        tuple(
            float(per_seed[[one == label for one in checkpoints]].mean())
            for label in dict.fromkeys(checkpoints)
        ),
        None if new is None else _interval(difference, new, level),
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


def _interval(difference: float, variance: Variance, level: float) -> Interval:
    reach = variance.reach(level)
    return Interval(difference - reach, difference + reach, float(variance.p_values(difference)))


def holm(p_values: Sequence[float]) -> np.ndarray:
    r"""Holm's step-down adjusted p values, in the given order.

    .. math:: \tilde p_{(k)} = \max_{j \le k} \min\big(1, (m - j + 1)\, p_{(j)}\big)
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p values must be a flat list of numbers between 0 and 1, got {p_values!r}")
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, (len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(stepped)
    return adjusted


def _parts(values: np.ndarray | Sequence[np.ndarray]) -> list[np.ndarray]:
    values = values if isinstance(values, (list, tuple)) else [values]
    parts = [np.asarray(part, dtype=np.float64) for part in values]
    for part in parts:
        if part.ndim != 3 or 0 in part.shape:
            raise UserError(f"statistics must have the shape (seeds, examples, statistics), got {part.shape}")
    if len({part.shape[0] for part in parts}) != 1:
        raise UserError(f"all test sets need the same seeds, got {[part.shape[0] for part in parts]} of them")
    return parts
