"""Intervals over images."""

import math

import numpy as np
import pytest
from scipy.stats import norm, t

from experiments.metrics.captions import bleu4_from_counts
from experiments.metrics.statistics import mean_score, mean_statistics
from experiments.report.interval import bootstrap_interval


def test_the_width_is_that_of_the_mean_of_images():
    """With equally many examples of each image, the score is the mean of images' means."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(60, 5)) + 2 * rng.normal(size=(60, 1))
    images = np.repeat(np.arange(60), 5)
    low, high = bootstrap_interval(mean_statistics(scores.ravel()), images, mean_score, resamples=20_000)
    means = scores.mean(axis=1)
    error = means.std(ddof=1) / math.sqrt(60)
    assert (low + high) / 2 == pytest.approx(means.mean(), abs=0.1 * error)
    assert high - low == pytest.approx(2 * t.ppf(0.975, 59) * error, rel=0.03)
    one_by_one = bootstrap_interval(mean_statistics(scores.ravel()), range(300), mean_score)
    assert one_by_one[1] - one_by_one[0] < 0.7 * (high - low), "questions about one picture go together"


def test_a_resample_is_a_score_of_drawn_images():
    """Against a loop that draws whole images and scores them again."""
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 9, size=(12, 10)).astype(float)
    counts[:, 4:8] = counts[:, :4] + rng.integers(0, 4, size=(12, 4))
    images = [k // 3 for k in range(12)]
    low, high = bootstrap_interval(counts, images, bleu4_from_counts, resamples=4000, level=0.8)
    drawn = []
    for _ in range(4000):
        rows = [3 * image + k for image in rng.integers(4, size=4) for k in range(3)]
        drawn.append(float(bleu4_from_counts(counts[rows].sum(0))))
    factor = math.sqrt(4 / 3) * t.ppf(0.9, 3) / norm.ppf(0.9)
    centre = float(bleu4_from_counts(counts.sum(0)))
    expected = [centre + factor * (end - centre) for end in np.quantile(drawn, [0.1, 0.9])]
    assert [low, high] == pytest.approx(expected, abs=0.05 * (high - low))


def test_it_covers_the_truth():
    """Few images, several questions on each: 95 of 100 intervals hold the mean."""
    rng = np.random.default_rng(2)
    held = 0
    for run in range(400):
        shares = rng.beta(2, 2, size=15)
        scores = (rng.random((15, 4)) < shares[:, None]).astype(float)
        low, high = bootstrap_interval(
            mean_statistics(scores.ravel()), np.repeat(np.arange(15), 4), mean_score, run, resamples=400
        )
        held += low <= 0.5 <= high
    assert 0.91 < held / 400 < 0.99


def test_the_seed_decides_and_one_image_says_nothing():
    statistics = mean_statistics(np.arange(20) / 20)
    first = bootstrap_interval(statistics, range(20), mean_score, 3)
    assert first == bootstrap_interval(statistics, range(20), mean_score, 3)
    assert first != bootstrap_interval(statistics, range(20), mean_score, 4)
    assert all(map(math.isnan, bootstrap_interval(statistics, ["a"] * 20, mean_score)))
    assert bootstrap_interval(mean_statistics(np.ones(9)), range(9), mean_score) == (1, 1)


def test_ends_are_scores_that_there_can_be():
    """Of two images, one right and one wrong, the interval would reach far beyond 0 and 1."""
    statistics = mean_statistics(np.array([0.0, 1.0]))
    low, high = bootstrap_interval(statistics, range(2), mean_score)
    assert low < -3 and high > 4
    assert bootstrap_interval(statistics, range(2), mean_score, bounds=(0, 1)) == (0, 1)
    scores = mean_statistics(np.linspace(0.4, 0.6, 40))
    wide, bounded = (bootstrap_interval(scores, range(40), mean_score, bounds=b) for b in ((0, 9), (0, 1)))
    assert wide == bounded == bootstrap_interval(scores, range(40), mean_score)
