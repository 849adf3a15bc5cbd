"""Predictions beside references, for every metric; means of each kind."""

import pytest

from attngraph.errors import UserError
from experiments.metrics.alignment import scores_by_kind
from experiments.metrics.captions import caption_scores
from experiments.metrics.entailment import entailment_scores
from experiments.metrics.exact import exact_scores
from experiments.metrics.vqa import vqa_scores


def test_scores_by_kind():
    assert scores_by_kind([1, 0, 1], ["count", "count", "colour"]) == {"colour": (1.0, 1), "count": (0.5, 2)}
    with pytest.raises(ValueError):
        scores_by_kind([1, 0], ["count"])


@pytest.mark.parametrize("metric", [vqa_scores, exact_scores, entailment_scores, caption_scores])
@pytest.mark.parametrize(
    "predictions, references, message",
    [
        ({}, {"q": ["neutral"]}, "no prediction for 1 example.*first q"),
        ({"q": "a", "x": "b"}, {"q": ["neutral"]}, "no reference answer for 1 example.*first x"),
        ({}, {}, "nothing to score"),
    ],
)
def test_ids_that_differ_are_one_clear_line(metric, predictions, references, message):
    with pytest.raises(UserError, match=message) as error:
        metric(predictions, references)
    assert "\n" not in str(error.value)
