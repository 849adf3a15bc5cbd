"""Scores from sums over examples."""

import numpy as np

from experiments.metrics.statistics import mean_score, mean_statistics


def test_the_mean_of_any_resample_comes_from_sums():
    rng = np.random.default_rng(0)
    scores = rng.random((3, 10))  # seeds, examples
    picks = rng.integers(10, size=7)
    totals = mean_statistics(scores)[:, picks].sum(axis=-2)
    assert totals.shape == (3, 2)
    np.testing.assert_allclose(mean_score(totals), scores[:, picks].mean(axis=-1), rtol=1e-15)
