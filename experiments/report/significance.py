"""Paired bootstrap over images, the spread over seeds and checkpoints, and Holm's correction.

Two methods A and B were trained with the same seeds :math:`s = 1..S` and scored on the same examples
:math:`i = 1..N`. A score is a function of *summed* per-example statistics (see
:mod:`experiments.metrics.statistics`), so a resample of the examples is a weighted sum: nothing is scored
again. In each resample one set of examples is drawn and used for every seed of both methods: that gives the
covariance of the seeds' differences over new examples. What differs between seeds, and between the
pre-trained checkpoints that seeds start from, is added as :mod:`experiments.report.variance` says.

Hesterberg, What teachers should know about the bootstrap (2015); Owen, The pigeonhole bootstrap (2007).
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


def paired_bootstrap(
    a: np.ndarray | Sequence[np.ndarray],
    b: np.ndarray | Sequence[np.ndarray],
    score: Score = mean_score,
    *,
    checkpoints: Sequence[object] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two methods on the same seeds and examples.

    Args:
        a, b: statistics ``(S, N, K)``, row s of both from the same seed, column i from the same example. For
            a score made of several test sets (an average of columns), a list with one array per test set:
            they share the seeds and are resampled independently.
        score: from summed statistics ``(..., K)``, one argument per test set, to scores ``(...)``.
        checkpoints: which pre-trained weights each seed started from; None for one and the same.
        resamples: draws of the examples.
        level: coverage of the intervals.
        seed: of the draws.

    Raises:
        UserError: the two methods' arrays differ in shape or hold NaN.

    Example:
        >>> a, b = np.array([[1., 1., 0., 1.]]), np.array([[1., 0., 0., 1.]])
        >>> paired_bootstrap(mean_statistics(a), mean_statistics(b)).difference
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
    rng = np.random.default_rng(seed)
    drawn = score(*[resampled_totals(part, resamples, rng) for part in parts])  # (R, 2, S)
    covariance = np.atleast_2d(np.cov(drawn[:, 0] - drawn[:, 1], rowvar=False))  # (S, S)

    these, new = variances(per_seed, covariance, checkpoints, examples)
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


def resampled_totals(part: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Totals over N examples drawn with replacement, the same for all methods and seeds.

    Args:
        part: statistics ``(methods, S, N, K)``.
        resamples: R, how often the examples are drawn.
        rng: draws them.

    Returns:
        ``(R, methods, S, K)``.
    """
    methods, seeds, examples, width = part.shape
    flat = np.moveaxis(part, 2, 0).reshape(examples, -1)  # (N, 2 S K)
    block = max(1, 4_000_000 // examples)  # bounds memory
    totals = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        picks = rng.integers(examples, size=(rows, examples)) + examples * np.arange(rows)[:, None]
        weights = np.bincount(picks.ravel(), minlength=rows * examples).reshape(rows, examples)
        totals.append(weights.astype(np.float64) @ flat)
    return np.concatenate(totals).reshape(resamples, methods, seeds, width)
