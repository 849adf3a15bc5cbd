"""Accuracy by equality with an answer or a label, and what all metrics share."""

import numpy as np
import pytest

from attngraph.errors import UserError
from attngraph.experiments.metrics.captions import caption_scores
from attngraph.experiments.metrics.exact import ENTAILMENT_WORDS, SYNONYMS, entailment_scores, exact_scores
from attngraph.experiments.metrics.statistics import mean_score, mean_statistics, scores_by_kind
from attngraph.experiments.metrics.vqa import vizwiz_scores, vqa_scores


def test_exact_match():
    references = {"1": ["yes"], "2": ["yes"], "3": [" Teal"]}
    assert exact_scores({"1": "Yes ", "2": "no", "3": "teal"}, references).tolist() == [1, 0, 1]


def test_a_word_of_judgement_names_one_label():
    """Each word is right for one label and wrong for the other two; case and signs around it do not count,
    and only the whole answer does."""
    labels = list(ENTAILMENT_WORDS)
    references = {label: [label] for label in labels}
    for label, words in SYNONYMS.items():
        assert words[0] == ENTAILMENT_WORDS[label]
        for word in [*words, f" {words[2].upper()}.", f"{words[0].title()}!"]:
            scores = entailment_scores(dict.fromkeys(labels, word), references)
            assert scores.tolist() == [label == other for other in labels]
    for text in ("", "dog", "yes it is", "not correct"):
        assert not entailment_scores(dict.fromkeys(labels, text), references).any()


@pytest.mark.parametrize(
    "metric", [vqa_scores, vizwiz_scores, exact_scores, entailment_scores, caption_scores]
)
def test_predictions_and_references_have_the_same_ids(metric):
    for predictions, references, message in (
        ({}, {"q": ["neutral"]}, "no prediction for 1 example.*first q"),
        ({"q": "a", "x": "b"}, {"q": ["a"]}, "no reference answer for 1 example.*first x"),
        ({}, {}, "no reference answers"),
    ):
        with pytest.raises(UserError, match=message):
            metric(predictions, references)


@pytest.mark.parametrize("metric", [vqa_scores, vizwiz_scores])
def test_three_annotators_are_too_few(metric):
    with pytest.raises(UserError, match="needs at least 4 annotators' answers, example q has 3"):
        metric({"q": "red"}, {"q": ["red"] * 3})


def test_scores_by_kind():
    assert scores_by_kind([1, 0, 1], ["count", "count", "colour"]) == {"colour": (1.0, 1), "count": (0.5, 2)}
    with pytest.raises(ValueError):
        scores_by_kind([1, 0], ["count"])


def test_the_mean_of_any_resample_comes_from_sums():
    rng = np.random.default_rng(0)
    scores = rng.random((3, 10))  # seeds, examples
    picks = rng.integers(10, size=7)
    totals = mean_statistics(scores)[:, picks].sum(axis=-2)
    assert totals.shape == (3, 2)
    np.testing.assert_allclose(mean_score(totals), scores[:, picks].mean(axis=-1), rtol=1e-15)
