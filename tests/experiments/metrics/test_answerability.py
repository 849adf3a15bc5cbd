"""Average precision and F1 of questions that cannot be answered."""

import random

import numpy as np
import pytest
from sklearn.metrics import f1_score

from attngraph.errors import UserError
from experiments.metrics.answerability import answerability_scores, f1_from_counts

TRUTH = {"a": 0, "b": 1, "c": 0, "d": 1}


def test_by_hand():
    """Ranked by 1 - prediction: a (unanswerable), b, c (unanswerable), d. Precision is 1 at the first found,
    2/3 at the second; above 1/2 are a and b, of which a is right.
    """
    scores = answerability_scores({"a": 0.1, "b": 0.2, "c": 0.6, "d": 0.9}, TRUTH)
    assert scores.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert scores.f1 == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    assert scores.counts.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_the_unanswerable_are_the_positive_class():
    """Were the answerable the positive class, whoever calls everything answerable would have an F1 of 2/3."""
    scores = answerability_scores(dict.fromkeys(TRUTH, 1.0), TRUTH)
    assert scores.f1 == 0 and scores.average_precision == pytest.approx(0.5)


def test_a_half_is_answerable():
    assert answerability_scores(dict.fromkeys(TRUTH, 0.5), TRUTH).counts[:, 1].sum() == 0
    assert answerability_scores(dict.fromkeys(TRUTH, 0.4999999), TRUTH).counts[:, 1].sum() == 2


def slow_average_precision(found: list[float], positive: list[int]) -> float:
    """At every distinct threshold: the gain in recall times the precision."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(found), reverse=True):
        taken = [p for f, p in zip(found, positive) if f >= threshold]
        now = sum(taken) / sum(positive)
        total, recall = total + (now - recall) * sum(taken) / len(taken), now
    return total


def test_random_runs():
    rng = random.Random(0)
    for _ in range(200):
        truth = {str(k): int(rng.random() < 0.6) for k in range(rng.choice((3, 30)))} | {"0": 0}
        given = {id: rng.choice((0.0, 0.3, 0.5, 1.0, rng.random())) for id in truth}
        scores = answerability_scores(given, truth)
        positive, found = [1 - v for v in truth.values()], [1.0 - given[id] for id in truth]
        assert scores.average_precision == pytest.approx(slow_average_precision(found, positive))
        expected = f1_score(positive, [f > 0.5 for f in found], zero_division=0)
        assert scores.f1 == pytest.approx(expected)
        assert f1_from_counts(scores.counts.sum(0)) == scores.f1


def test_f1_of_many_sums_at_once():
    assert f1_from_counts(np.array([[[0, 0, 0], [2, 0, 0]], [[1, 1, 1], [0, 3, 0]]])).tolist() == [
        [0, 1],
        [0.5, 0],
    ]


@pytest.mark.parametrize(
    "given, truth, message",
    [
        ({"a": 1.5}, {"a": 0}, "example a has the prediction 1.5; give a number from 0 to 1"),
        ({"a": float("nan")}, {"a": 0}, "prediction nan"),
        ({"a": 0.5}, {"a": 2}, "example a is answerable 2; give 0 or 1"),
        ({"a": 0.5}, {"a": 1}, "every question can be answered"),
        ({}, {"a": 1}, "no prediction for 1 example"),
    ],
)
def test_bad_input(given, truth, message):
    with pytest.raises(UserError, match=message):
        answerability_scores(given, truth)
