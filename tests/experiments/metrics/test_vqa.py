"""VQA, entailment and exact-match accuracy."""

import itertools

import numpy as np
import pytest

from attngraph.errors import UserError
from experiments.metrics.vqa import (
    ENTAILMENT_WORDS,
    entailment_scores,
    exact_scores,
    normalise_answer,
    scores_by_kind,
    vqa_scores,
)


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("The Red Ball.", "red ball"),
        ("a", ""),
        ("an apple", "apple"),
        ("two", "2"),
        ("TEN dogs", "10 dogs"),
        ("none", "0"),
        ("twelve", "twelve"),
        ("dont", "don't"),
        ("don't", "don't"),
        ("wouldntve", "wouldn't've"),
        ("she'dve", "she'd've"),
        ("im", "i'm"),
        ("its", "its"),
        ("well", "well"),
        ("were", "were"),
        ("we're", "we're"),
        ("girl's", "girl's"),
        ("girl’s", "girl's"),
        ("100,978", "100978"),
        ("red, blue", "red blue"),
        ("red,blue", "red blue"),
        ("2.50", "2.50"),
        (".5", ".5"),
        ("2:50 p.m.", "2:50 pm"),
        ("end.", "end"),
        ("yes!?", "yes"),
        ("t-shirt", "t shirt"),
        ("left/right (side)", "left right side"),
        ("50%", "50%"),
        ("  two \n dogs ", "2 dogs"),
        ("", ""),
    ],
)
def test_normalisation(answer, expected):
    assert normalise_answer(answer) == expected
    assert normalise_answer(expected) == expected


@pytest.mark.parametrize("matches, expected", [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_ten_annotators_give_the_known_values(matches, expected):
    references = {"q": ["red"] * matches + ["blue"] * (10 - matches)}
    assert vqa_scores({"q": "red"}, references)[0] == pytest.approx(expected)


def test_equals_the_average_over_nine_annotators_each():
    rng = np.random.default_rng(0)
    for _ in range(50):
        answers = list(rng.choice(["red", "blue", "2"], size=10))
        nines = [
            min(sum(answers[k] == "red" for k in nine) / 3, 1)
            for nine in itertools.combinations(range(10), 9)
        ]
        assert vqa_scores({"q": "Red."}, {"q": answers})[0] == pytest.approx(np.mean(nines))


def test_both_sides_are_normalised_and_the_order_is_that_of_the_references():
    references = {"b": ["Two."] * 10, "a": ["the dog"] * 10, "c": ["cat"] * 10}
    scores = vqa_scores({"a": "dog", "b": "2", "c": "dog"}, references)
    assert scores.tolist() == [1.0, 1.0, 0.0] and scores.dtype == np.float64


def test_entailment():
    labels = ["entailment", "contradiction", "neutral", "neutral", "entailment"]
    references = {str(k): [label] for k, label in enumerate(labels, 1)}
    predictions = {"1": "Correct", "2": " incorrect.", "3": "Ambiguous", "4": "correct", "5": ""}
    assert entailment_scores(predictions, references).tolist() == [1, 1, 1, 0, 0]
    assert set(ENTAILMENT_WORDS) == {"entailment", "contradiction", "neutral"}


def test_exact_match():
    assert exact_scores({"1": "Yes ", "2": "no"}, {"1": ["yes"], "2": ["yes"]}).tolist() == [1, 0]


def test_scores_by_kind():
    assert scores_by_kind([1, 0, 1], ["count", "count", "colour"]) == {"colour": (1.0, 1), "count": (0.5, 2)}
    with pytest.raises(ValueError):
        scores_by_kind([1, 0], ["count"])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: vqa_scores({}, {"q": ["red"] * 10}), "no prediction for 1 example"),
        (lambda: vqa_scores({"q": "a", "x": "b"}, {"q": ["red"] * 10}), "no reference answer for 1.*first x"),
        (lambda: vqa_scores({"q": "red"}, {"q": ["red"]}), "at least 4"),
        (lambda: vqa_scores({}, {}), "nothing to score"),
        (lambda: exact_scores({"q": "red"}, {"q": ["red", "blue"]}), "exactly one"),
        (lambda: exact_scores({"q": "red"}, {"q": "red"}), "exactly one"),
        (lambda: entailment_scores({"q": "correct"}, {"q": ["-"]}), "gold label '-'"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
