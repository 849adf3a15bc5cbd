"""Paired comparisons over seeds and examples: known errors, calibration, power; Holm's correction."""

import numpy as np
import pytest
from scipy import stats

from attngraph.errors import UserError
from experiments.metrics.captions import bleu4_from_counts, caption_scores
from experiments.metrics.statistics import mean_score, mean_statistics
from experiments.report.significance import holm, paired_comparison


def simulate(runs, seeds, examples, seed_std=0.0, example_std=0.0, noise_std=0.0, shift=0.0):
    """p values and coverage over simulated experiments with known sources of variation of A - B."""
    rng = np.random.default_rng(0)
    p_values, covered = [], []
    for _ in range(runs):
        b = rng.normal(size=(seeds, examples))
        a = (
            b
            + shift
            + seed_std * rng.normal(size=(seeds, 1))
            + example_std * rng.normal(size=(1, examples))
            + noise_std * rng.normal(size=(seeds, examples))
        )
        result = paired_comparison(mean_statistics(a), mean_statistics(b))
        p_values.append(result.p_value)
        covered.append(result.low <= shift <= result.high)
    return np.array(p_values), np.mean(covered)


@pytest.mark.parametrize(
    "seed_std, example_std, noise_std, least",
    [
        (0.3, 0.0, 0.3, 0.02),  # the seeds decide
        (0.0, 0.5, 0.05, 0.02),  # the examples decide
        (
            0.0,
            0.0,
            0.5,
            0.0,
        ),  # independent noise everywhere: known from the examples, and yet the seeds count
        (0.03, 0.4, 0.4, 0.01),  # all of them
    ],
)
def test_false_alarms_under_the_null(seed_std, example_std, noise_std, least):
    p_values, coverage = simulate(250, 5, 80, seed_std, example_std, noise_std)
    assert least <= np.mean(p_values < 0.05) <= 0.08
    assert coverage == 1 - np.mean(p_values < 0.05)


def test_interval_covers_a_true_difference_and_finds_it():
    p_values, coverage = simulate(200, 5, 100, 0.03, 0.3, 0.5, shift=0.3)
    assert coverage > 0.9
    assert np.mean(p_values < 0.05) > 0.95


def test_one_seed_is_the_standard_error_of_a_paired_mean():
    rng = np.random.default_rng(0)
    difference = rng.normal(0.1, 1.0, size=400)
    a = rng.normal(size=400)
    b = a - difference
    result = paired_comparison(mean_statistics(a[None]), mean_statistics(b[None]))
    assert result.difference == pytest.approx(difference.mean())
    expected = stats.ttest_1samp(difference, 0)
    assert result.standard_error == pytest.approx(difference.std(ddof=1) / 20, rel=1e-9)
    assert result.p_value == pytest.approx(expected.pvalue, rel=1e-9)


def test_same_examples_every_seed_apart_is_the_t_test_over_seeds():
    shifts = np.array([0.1, 0.3, 0.25, -0.05, 0.2])
    b = np.random.default_rng(0).random((5, 50))
    result = paired_comparison(mean_statistics(b + shifts[:, None]), mean_statistics(b))
    expected = stats.ttest_1samp(shifts, 0)
    assert result.standard_error == pytest.approx(shifts.std(ddof=1) / 5**0.5)
    assert result.p_value == pytest.approx(expected.pvalue, rel=1e-3)
    assert (result.low, result.high) == pytest.approx(tuple(expected.confidence_interval()), abs=1e-4)


def test_error_of_crossed_seeds_and_examples():
    rng = np.random.default_rng(3)
    seeds, examples = 6, 300
    values = 0.5 * rng.normal(size=(1, examples)) + 0.5 * rng.normal(size=(seeds, examples))
    result = paired_comparison(mean_statistics(values), mean_statistics(np.zeros_like(values)))
    expected = np.sqrt(0.25 / examples + 0.25 / examples / seeds)
    assert result.standard_error == pytest.approx(expected, rel=0.25)


def test_pairing_removes_what_the_methods_share():
    rng = np.random.default_rng(0)
    hard = 10 * rng.normal(size=(3, 200))
    better = hard + 0.5 + 0.1 * rng.normal(size=(3, 200))
    result = paired_comparison(mean_statistics(better), mean_statistics(hard))
    assert result.standard_error < 0.02 and result.p_value < 1e-3


def test_deterministic_antisymmetric_and_equal_methods():
    rng = np.random.default_rng(0)
    a, b = (mean_statistics(rng.random((3, 40))) for _ in range(2))
    forth, back = paired_comparison(a, b), paired_comparison(b, a)
    assert forth == paired_comparison(a, b)
    assert (forth.difference, forth.low) == pytest.approx((-back.difference, -back.high))
    same = paired_comparison(a, a)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert (same.seeds, same.examples) == (3, 40)


def test_what_a_comparison_speaks_for():
    rng = np.random.default_rng(0)
    a, b = (mean_statistics(rng.random((6, 40))) for _ in range(2))
    one = paired_comparison(a[:1], b[:1])
    assert (one.speaks_for, one.by_checkpoint, one.new_checkpoints) == ("images", (one.difference,), None)
    same = paired_comparison(a, b)
    assert (same.speaks_for, same.new_checkpoints) == ("seeds and images", None)
    dealt = paired_comparison(a, b, checkpoints=[0, 1, 2, 0, 1, 2])
    per_seed = a[..., 0].mean(1) - b[..., 0].mean(1)
    assert dealt.by_checkpoint == pytest.approx((per_seed[:3] + per_seed[3:]) / 2)
    new = dealt.new_checkpoints
    assert new.low < dealt.low < dealt.difference < dealt.high < new.high and new.p_value > dealt.p_value
    with pytest.raises(ValueError, match="one for each of 6 seeds"):
        paired_comparison(a, b, checkpoints=[0, 1])


def captions(seeds, damage, examples=60):
    words = "a red blue circle square above below the two three".split()
    rng = np.random.default_rng(0)
    references = {str(k): [" ".join(rng.choice(words, size=8)) for _ in range(3)] for k in range(examples)}
    runs = []
    for seed in range(seeds):
        rng = np.random.default_rng(100 + seed)
        predictions = {}
        for id, texts in references.items():
            predictions[id] = " ".join(
                rng.choice(words) if rng.random() < damage else word for word in texts[0].split()
            )
        runs.append(caption_scores(predictions, references, use_java=False))
    return runs


def test_corpus_bleu_and_an_average_of_columns():
    good, bad = captions(3, 0.2), captions(3, 0.5)
    counts = [np.stack([run.bleu_counts for run in runs]) for runs in (good, bad)]
    bleu = paired_comparison(*counts, bleu4_from_counts)
    expected = np.mean([one.bleu4 - other.bleu4 for one, other in zip(good, bad, strict=True)])
    assert bleu.difference == pytest.approx(expected)
    assert bleu.low > 0 and bleu.p_value < 0.05
    picks = np.random.default_rng(0).integers(60, size=(4000, 60))
    drawn = [bleu4_from_counts(side[0][picks].sum(axis=1)) for side in counts]
    one = paired_comparison(*(side[:1] for side in counts), bleu4_from_counts)
    assert one.standard_error == pytest.approx(np.std(drawn[0] - drawn[1]), rel=0.1)

    accuracy = [mean_statistics(np.full((3, 25), value)) for value in (0.75, 0.25)]
    both = paired_comparison(
        [counts[0], accuracy[0]],
        [counts[1], accuracy[1]],
        lambda captions, vqa: (bleu4_from_counts(captions) + mean_score(vqa)) / 2,
    )
    assert both.difference == pytest.approx((bleu.difference + 0.5) / 2)
    assert both.standard_error == pytest.approx(bleu.standard_error / 2, rel=0.1)
    assert both.examples == 25


@pytest.mark.parametrize(
    "p_values, adjusted",
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.06, 0.06, 0.06]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.2], [0.2]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([], []),
    ],
)
def test_holm_by_hand(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted)


def test_holm_is_monotone_and_between_raw_and_bonferroni():
    p = np.random.default_rng(0).random((50, 7)) ** 2
    for row in p:
        adjusted = holm(row)
        assert (np.diff(adjusted[np.argsort(row)]) >= 0).all()
        assert (adjusted >= row).all() and (adjusted <= np.minimum(1, 7 * row) + 1e-12).all()
        assert adjusted.min() == pytest.approx(min(1, 7 * row.min()))
    with pytest.raises(ValueError):
        holm([1.2])


@pytest.mark.parametrize(
    "a, b, message",
    [
        (np.ones((2, 3, 2)), np.ones((3, 3, 2)), "same seeds and examples"),
        (np.ones((2, 3)), np.ones((2, 3)), "shape"),
        (np.full((2, 3, 2), np.nan), np.ones((2, 3, 2)), "not finite"),
        ([np.ones((2, 3, 2)), np.ones((1, 3, 2))], [np.ones((2, 3, 2)), np.ones((1, 3, 2))], "same seeds"),
    ],
)
def test_bad_input(a, b, message):
    with pytest.raises(UserError, match=message):
        paired_comparison(a, b)
