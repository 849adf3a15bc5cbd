"""VQA accuracy: normalised answers against ten annotators."""

import itertools

import numpy as np
import pytest

from attngraph.errors import UserError
from experiments.metrics.vqa import normalise_answer, vqa_scores


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


def test_too_few_annotators_are_one_clear_line():
    with pytest.raises(UserError, match="needs at least 4 annotators' answers, example q has 1") as error:
        vqa_scores({"q": "red"}, {"q": ["red"]})
    assert "\n" not in str(error.value)
