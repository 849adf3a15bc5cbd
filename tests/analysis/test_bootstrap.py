import numpy as np
import pytest
from scipy import stats

from attngraph.analysis.bootstrap import Means, poisson


def test_mean_leaves_nan_out():
    means = Means((3,))
    means.add(np.array([[1, np.nan, 2], [3, 5, 6]]))
    means.add(np.array([[8, np.nan, np.nan]]))
    assert means.mean().tolist() == [4, 5, 4] and means.counts.tolist() == [3, 1, 2] and means.examples == 3
    low, high = means.interval()
    assert low[0] < 4 < high[0] and np.isnan(low[1]) and np.isnan(high[1]) and low[2] < 4 < high[2]


def test_ends_are_widened_quantiles_of_all_resampled_means():
    """Of so few that each of them counts."""
    values, means = np.array([1.0, 2.0, 4.0, 8.0]), Means((1,), replicates=5)
    means.add(values[:, None])
    weights = np.array([poisson(means.seed, example, 5) for example in range(4)], dtype=float)
    resampled = values @ weights / weights.sum(0)
    wider = stats.t.ppf(0.9, 3) / stats.norm.ppf(0.9)
    want = 3.75 + wider * (np.quantile(resampled, [0.1, 0.9]) - 3.75)
    np.testing.assert_allclose(np.concatenate(means.interval(0.8)), want)


@pytest.mark.parametrize("examples", [4, 16])
def test_covers_with_few_examples(examples):
    """19 of 20 intervals hold the true mean: plain percentiles are too narrow here (88 % at 4 examples, 93 %
    at 16)."""
    means = Means((3000,), replicates=1000)
    means.add(np.random.default_rng(0).normal(3, 2, (examples, 3000)))
    low, high = means.interval(0.95)
    assert np.mean((low < 3) & (high > 3)) == pytest.approx(0.95, abs=0.01)


def test_paired_difference():
    """Two statistics that vary much from example to example and hardly against one another."""
    draw = np.random.default_rng(0)
    common = draw.normal(0, 10, (40, 1))
    first, second = common + draw.normal(0.5, 0.2, (40, 1)), common
    parts = [Means((1,)), Means((1,)), Means((1,))]
    for means, values in zip(parts, (first, second, first - second)):
        means.add(values)
    mean, low, high = parts[0].minus(parts[1])
    assert mean == pytest.approx(parts[2].mean()) and 0.4 < low[0] < mean[0] < high[0] < 0.7
    assert np.allclose((low, high), parts[2].interval())
    parts[1].add(second)
    with pytest.raises(ValueError, match="same examples, got 40 and 80"):
        parts[0].minus(parts[1])
