"""Means over examples with bootstrap intervals, in one pass and in memory that does not grow with the number of
examples."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


class Means:
    """Means of an array of statistics over examples, NaN left out, and over resampled examples.

    The resampling is the Poisson bootstrap: in each replicate an example counts as often as a Poisson(1) number says,
    drawn from the seed and the example's number. So only sums are kept, all statistics see the same replicates, and
    neither the size of batches nor the order of layers matters. Hanley & MacGibbon 2006.

    Args:
        shape: of the statistics of one example.
        replicates: how many resamplings, at least 2.
        seed: of the resamplings.
    """

    def __init__(self, shape: tuple[int, ...], replicates: int = 200, seed: int = 0):
        self.shape, self.replicates, self.seed, self.examples = tuple(shape), replicates, seed, 0
        width = int(np.prod(shape))
        self._sums, self._counts = np.zeros((1 + replicates, width)), np.zeros((1 + replicates, width))

    def add(self, values: np.ndarray) -> None:
        """Add examples, ``(b, *shape)``."""
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
        """How many examples each statistic is the mean of, ``shape``."""
        return self._counts[0].reshape(self.shape).astype(int)

    def mean(self) -> np.ndarray:
        """``shape``, NaN without examples."""
        return _ratio(self._sums[0], self._counts[0]).reshape(self.shape)

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the percentile interval, each ``shape``; NaN where fewer than two examples count."""
        ends = np.full((2, self._sums.shape[1]), np.nan)
        some = self._counts[0] > 1
        resampled = _ratio(self._sums[1:, some], self._counts[1:, some])
        ends[:, some] = np.nanquantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return ends[0].reshape(self.shape), ends[1].reshape(self.shape)


@lru_cache(maxsize=4096)
def poisson(seed: int, example: int, replicates: int) -> np.ndarray:
    """How often each replicate counts an example, ``(replicates,)``."""
    return np.random.default_rng([seed, example]).poisson(1, replicates)


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
