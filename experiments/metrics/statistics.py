"""Scores as functions of sums over examples, so that a bootstrap resamples examples without scoring texts again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Score = Callable[..., np.ndarray]  # from summed statistics (..., K) to scores (...)


def mean_statistics(scores: np.ndarray) -> np.ndarray:
    """Per-example scores ``(..., N)`` as statistics ``(..., N, 2)`` for :func:`mean_score`: the score, and a 1 to count."""
    scores = np.asarray(scores, dtype=np.float64)
    return np.stack([scores, np.ones_like(scores)], axis=-1)


def mean_score(totals: np.ndarray) -> np.ndarray:
    """Mean score ``(...)`` from summed :func:`mean_statistics` ``(..., 2)``."""
    return totals[..., 0] / totals[..., 1]
