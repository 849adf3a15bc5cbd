import numpy as np
import pytest

from analysis.bootstrap import Means


def test_mean_leaves_nan_out():
    means = Means((2,))
    means.add(np.array([[1, np.nan], [3, 5]]))
    means.add(np.array([[8, np.nan]]))
    assert means.mean().tolist() == [4, 5] and means.counts.tolist() == [3, 1] and means.examples == 3
    low, high = means.interval()
    assert low[0] < 4 < high[0] and np.isnan(low[1]) and np.isnan(high[1])


def test_interval_covers_like_the_normal_one():
    values = np.random.default_rng(0).normal(3, 2, (400, 1))
    means = Means((1,), replicates=2000)
    means.add(values)
    low, high = means.interval(0.95)
    half = 1.96 * values.std() / 20
    assert low[0] == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high[0] == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_batches_do_not_matter():
    values = np.random.default_rng(0).normal(size=(10, 2, 3))
    whole, parts = Means((2, 3)), Means((2, 3))
    whole.add(values)
    for part in np.split(values, [1, 5]):
        parts.add(part)
    assert np.allclose(whole.mean(), parts.mean()) and np.allclose(whole.interval(), parts.interval())
