"""Scores as functions of sums over examples: a bootstrap resamples examples without scoring texts again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: From summed statistics ``(..., K)`` to scores ``(...)``.
Score = Callable[..., np.ndarray]


def mean_statistics(scores: np.ndarray) -> np.ndarray:
    """Statistics ``(..., N, 2)`` of scores ``(..., N)`` for :func:`mean_score`: the score, and a 1."""
    scores = np.asarray(scores, dtype=np.float64)
    return np.stack([scores, np.ones_like(scores)], axis=-1)


def mean_score(totals: np.ndarray) -> np.ndarray:
    """Mean score ``(...)`` from summed :func:`mean_statistics` ``(..., 2)``."""
    return totals[..., 0] / totals[..., 1]
