"""The interval of one run's score over new images, by the bootstrap."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy.stats import norm, t

from experiments.metrics.statistics import Score

RESAMPLES, LEVEL = 1000, 0.95


def bootstrap_interval(
    statistics: np.ndarray,
    images: Sequence[Hashable],
    score: Score,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float]:
    r"""The ends of a score's interval over new images.

    Images are drawn, not examples: the questions about one picture are right or wrong together. Percentiles
    of resampled scores take the sample's spread for the true one, so with n images they are moved away from
    the score by the factor :math:`\sqrt{n/(n-1)}\; t_{n-1} / z`, Student's quantile of the level over the
    normal one (Hesterberg 2015).

    Args:
        statistics: ``(N, K)``, from whose sums the score is computed.
        images: the image of each example.
        score: from sums ``(..., K)`` to scores ``(...)``.
        seed: of the draws.
        resamples: how often images are drawn.
        level: coverage.
        bounds: the lowest and the highest score that there can be; moved ends that lie beyond them are put
            there, which an interval over few images would leave otherwise.

    Returns:
        Low and high; both NaN with fewer than two images.
    """
    codes = {image: number for number, image in enumerate(dict.fromkeys(images))}
    n = len(codes)
    if n < 2:
        return math.nan, math.nan
    sums = np.zeros((n, statistics.shape[1]))
    np.add.at(sums, [codes[image] for image in images], statistics)
    totals = _resampled_totals(sums, resamples, np.random.default_rng(seed))
    upper = (1 + level) / 2
    ends = np.quantile(score(totals), [1 - upper, upper])
    centre = float(score(statistics.sum(axis=0)))
    widening = math.sqrt(n / (n - 1)) * t.ppf(upper, n - 1) / norm.ppf(upper)
    low, high = (float(np.clip(centre + widening * (end - centre), *bounds)) for end in ends)
    return low, high


def _resampled_totals(statistics: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Totals ``(R, K)`` over N images drawn with replacement, from statistics ``(N, K)``."""
    images = len(statistics)
    block = max(1, 4_000_000 // images)  # bounds memory
    totals = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        picks = rng.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        weights = np.bincount(picks.ravel(), minlength=rows * images).reshape(rows, images)
        totals.append(weights.astype(np.float64) @ statistics)
    return np.concatenate(totals)
