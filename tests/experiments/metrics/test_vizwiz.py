"""VizWiz-VQA accuracy: every expected value here was computed by VizWiz's own evaluator, or by hand."""

import hashlib
import json
import random

import numpy as np
import pytest
from sklearn.metrics import f1_score

from attngraph.errors import UserError
from experiments.metrics import vizwiz
from experiments.metrics.vizwiz import (
    answerability_scores,
    f1_from_counts,
    normalise_prediction,
    vizwiz_scores,
)
from experiments.metrics.vqa import vqa_scores


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("The Red Ball.", "red ball"),
        ("two", "2"),
        ("none", "0"),
        ("t-shirt", "t shirt"),
        ("1,000 red/blue", "1000 redblue"),
        ("2.50.", "2.50"),
        ("." * 35 + "x", "...x"),
        ("x\ny\tz ", "x y z"),
        # a typographic apostrophe for most, a straight one for eight
        ("dont", "don’t"),
        ("isnt whats", "isn’t what’s"),
        ("aint arent cant couldve couldnt", "ain't aren't can't could've couldn't"),
        ("weve wheres whove", "we've where's who've"),
        ("don't", "don't"),
        ("don’t", "don’t"),
        # keys have typographic apostrophes too, but for two
        ("couldnt’ve couldnt've", "couldn’t’ve couldnt've"),
        ("couldn'tve couldn’tve", "couldn’t’ve couldn’tve"),
        ("hadn'tve hadn’tve hadnt’ve", "hadn’t’ve hadn’tve hadn’t’ve"),
        ("mightn’tve mightn'tve", "mightn’t’ve mightn'tve"),
        ("somebody’d somebody'd", "somebodyd somebody'd"),
        ("Im Ive let’s id", "im ive let’s id"),
    ],
)
def test_normalisation(answer, expected):
    assert normalise_prediction(answer) == expected


def test_the_table_is_the_evaluators():
    """The digest is of the evaluator's own table, less what never acts: capitals and equal spellings."""
    table = json.dumps([list(item) for item in sorted(vizwiz._CONTRACTIONS.items())])
    digest = hashlib.sha256(table.encode()).hexdigest()
    assert digest == "1b56f4d9fb5f9d43abaf4f338e42b384cafeba26966ca23c8eaf9814b7957343"


@pytest.mark.parametrize(
    "prediction, answers, expected, of_vqa",
    [
        # annotators' answers are never processed, the prediction always is, unanimous or not
        ("Yes", ["Yes"] * 10, 0.0, 1.0),
        ("yes", ["Yes"] * 10, 0.0, 0.0),
        ("Yes", ["yes"] * 10, 1.0, 0.0),
        ("the dog.", ["dog"] * 10, 1.0, 0.0),
        ("dog", ["the dog"] * 9 + ["dog"], 0.3, 1.0),
        ("two", ["two"] * 9 + ["2"], 0.3, 1.0),
        ("2", ["two"] * 5 + ["2"] * 5, 1.0, 1.0),
        ("t-shirt", ["t-shirt"] * 9 + ["t shirt"], 0.3, 1.0),
        ("dog", [" dog"] * 9 + ["dog\n"], 0.0, 1.0),
        ("", [""] * 10, 1.0, 1.0),
        ("a", [""] * 2 + ["the"] * 8, 0.6, 1.0),
        # contractions
        ("dont", ["don't"] * 9 + ["dont"], 0.0, 1.0),
        ("dont", ["don’t"] * 9 + ["x"], 1.0, 0.0),
        ("don't", ["don't"] * 9 + ["x"], 1.0, 1.0),
        ("cant", ["can't"] * 9 + ["x"], 1.0, 1.0),
    ],
)
def test_images(prediction, answers, expected, of_vqa):
    assert vizwiz_scores({"i": prediction}, {"i": answers})[0] == pytest.approx(expected, abs=1e-12)
    assert vqa_scores({"i": prediction}, {"i": answers})[0] == pytest.approx(of_vqa, abs=1e-12)


@pytest.mark.parametrize("matches, expected", [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_annotators_are_left_out_by_their_place(matches, expected):
    """By their value, four and more equal answers would score 0."""
    references = {"i": ["red"] * matches + ["blue"] * (10 - matches)}
    assert vizwiz_scores({"i": "red"}, references)[0] == pytest.approx(expected)


def test_the_order_is_that_of_the_references():
    references = {"b": ["2"] * 10, "a": ["dog"] * 10}
    assert vizwiz_scores({"a": "Dog", "b": "no"}, references).tolist() == [0.0, 1.0]


# ---- which questions cannot be answered ------------------------------------------------------------------

TRUTH = {"a": 0, "b": 1, "c": 0, "d": 1}


def test_answerability_by_hand():
    """Ranked by 1 - prediction: a (unanswerable), b, c (unanswerable), d. Precision is 1 at the first found,
    2/3 at the second; above 1/2 are a and b, of which a is right.
    """
    scores = answerability_scores({"a": 0.1, "b": 0.2, "c": 0.6, "d": 0.9}, TRUTH)
    assert scores.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert scores.f1 == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    assert scores.counts.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_the_unanswerable_are_the_positive_class_and_a_half_is_answerable():
    """Were the answerable the positive class, whoever calls everything answerable would have an F1 of 2/3."""
    scores = answerability_scores(dict.fromkeys(TRUTH, 1.0), TRUTH)
    assert scores.f1 == 0 and scores.average_precision == pytest.approx(0.5)
    for sure, called in ((0.5, 0), (0.4999999, 2)):
        assert answerability_scores(dict.fromkeys(TRUTH, sure), TRUTH).counts[:, 1].sum() == called


def slow_average_precision(found: list[float], positive: list[int]) -> float:
    """At every distinct threshold: the gain in recall times the precision."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(found), reverse=True):
        taken = [p for f, p in zip(found, positive) if f >= threshold]
        now = sum(taken) / sum(positive)
        total, recall = total + (now - recall) * sum(taken) / len(taken), now
    return total


def test_random_runs():
    rng, sums = random.Random(0), [np.zeros(3)]
    for _ in range(100):
        truth = {str(k): int(rng.random() < 0.6) for k in range(rng.choice((3, 30)))} | {"0": 0}
        given = {id: rng.choice((0.0, 0.3, 0.5, 1.0, rng.random())) for id in truth}
        scores = answerability_scores(given, truth)
        positive, found = [1 - v for v in truth.values()], [1.0 - given[id] for id in truth]
        assert scores.average_precision == pytest.approx(slow_average_precision(found, positive))
        expected = f1_score(positive, [f > 0.5 for f in found], zero_division=0)
        assert scores.f1 == pytest.approx(expected)
        sums.append(scores.counts.sum(0))
        assert f1_from_counts(sums[-1]) == scores.f1
    assert f1_from_counts(np.stack(sums)).tolist() == [f1_from_counts(each) for each in sums]


@pytest.mark.parametrize(
    "given, truth, message",
    [
        ({"a": 1.5}, {"a": 0}, "example a has the prediction 1.5; give a number from 0 to 1"),
        ({"a": float("nan")}, {"a": 0}, "prediction nan"),
        ({"a": 0.5}, {"a": 2}, "example a is answerable 2; give 0 or 1"),
        ({"a": 0.5}, {"a": 1}, "every question can be answered"),
    ],
)
def test_answerability_that_cannot_be_scored(given, truth, message):
    with pytest.raises(UserError, match=message):
        answerability_scores(given, truth)
