"""Means over examples with bootstrap intervals, in one pass and in constant memory."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from attngraph.extras import optional


class Means:
    r"""Means of an array of statistics over examples, ignoring NaN, and over resampled examples.

    The resampling is the Poisson bootstrap (Hanley & MacGibbon 2006): in each replicate an example has a
    weight sampled from Poisson(1), determined by the seed and the example's number. So only sums are kept,
    all statistics see the same replicates, and neither the size of batches nor the order of layers matters.

    Percentile intervals of resampled means are too narrow for few examples, since they use the sample's
    spread as the true one. So their ends are moved away from the mean by the factor :math:`t_{n-1} / z`, the
    ratio of Student's and the normal quantile of the level (Hesterberg 2015). (His other factor,
    :math:`\sqrt{n/(n-1)}`, is already part of the Poisson bootstrap: the sum of the weights varies, which
    increases the variance of a resampled mean by the factor :math:`1 + 1/n`.)

    Args:
        shape: shape of the statistics of one example.
        replicates: number of resamplings, at least 2.
        seed: seed of the resamplings.
    """

    def __init__(self, shape: tuple[int, ...], replicates: int = 200, seed: int = 0):
        self.shape, self.replicates, self.seed, self.examples = tuple(shape), replicates, seed, 0
        width = int(np.prod(shape))
        self._sums, self._counts = np.zeros((1 + replicates, width)), np.zeros((1 + replicates, width))

    def add(self, values: np.ndarray) -> None:
        """Add the statistics of ``b`` examples, ``(b, *shape)``; NaN where a statistic is undefined."""
        values = np.asarray(values, np.float64).reshape(len(values), -1)
        weights = np.ones((1 + self.replicates, len(values)))
        for k in range(len(values)):
            weights[1:, k] = poisson(self.seed, self.examples + k, self.replicates)
        known = ~np.isnan(values)
        self._sums += weights @ np.where(known, values, 0)
        self._counts += weights @ known
        self.examples += len(values)

    @property
    def counts(self) -> np.ndarray:
        """The number of examples with each statistic, ``shape``."""
        return self._counts[0].reshape(self.shape).astype(int)

    def mean(self) -> np.ndarray:
        """The mean of each statistic over the examples that have it, ``shape``; NaN without examples."""
        return _ratio(self._sums[0], self._counts[0]).reshape(self.shape)

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the widened percentile interval, each ``shape``; NaN where fewer than two examples
        count."""
        means = _ratio(self._sums, self._counts)
        low, high = _interval(means, self._counts[0], level)
        return low.reshape(self.shape), high.reshape(self.shape)

    def minus(self, other: Means, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The difference of the two means over the same examples, and the ends of its interval, each
        ``shape``. Both see the same resamplings, so the interval is that of the paired difference.

        Raises:
            ValueError: other examples, statistics, resamplings or seed.
        """
        for name in ("shape", "replicates", "seed", "examples"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(
                    f"a paired difference needs the same {name}, got {getattr(self, name)} and "
                    f"{getattr(other, name)}"
                )
        means = _ratio(self._sums, self._counts) - _ratio(other._sums, other._counts)
        low, high = _interval(means, np.minimum(self._counts[0], other._counts[0]), level)
        return means[0].reshape(self.shape), low.reshape(self.shape), high.reshape(self.shape)


@lru_cache(maxsize=4096)
def poisson(seed: int, example: int, replicates: int) -> np.ndarray:
    """The weight of an example in each replicate, ``(replicates,)``."""
    return np.random.default_rng([seed, example]).poisson(1, replicates)


def _interval(means: np.ndarray, counts: np.ndarray, level: float) -> np.ndarray:
    """Both ends, ``(2, width)``, from the mean (first) and the resampled means
    ``(1 + replicates, width)``."""
    ends = np.full((2, means.shape[1]), np.nan)
    defined = counts > 1
    n, upper = counts[defined], (1 + level) / 2
    stats = optional("scipy.stats")
    widening = stats.t.ppf(upper, n - 1) / stats.norm.ppf(upper)
    mean = means[0, defined]
    quantiles = np.nanquantile(means[1:, defined], [1 - upper, upper], axis=0)
    ends[:, defined] = mean + widening * (quantiles - mean)
    return ends


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
