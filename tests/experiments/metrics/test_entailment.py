"""Entailment accuracy: words for labels."""

import pytest

from attngraph.errors import UserError
from experiments.metrics.entailment import ENTAILMENT_WORDS, SYNONYMS, entailment_scores


def test_entailment():
    labels = ["entailment", "contradiction", "neutral", "neutral", "entailment"]
    references = {str(k): [label] for k, label in enumerate(labels, 1)}
    predictions = {"1": "Correct", "2": " incorrect.", "3": "Ambiguous", "4": "correct", "5": ""}
    assert entailment_scores(predictions, references).tolist() == [1, 1, 1, 0, 0]
    assert set(ENTAILMENT_WORDS) == {"entailment", "contradiction", "neutral"}


def test_a_label_is_as_good_as_its_word():
    references = {label: [label] for label in ENTAILMENT_WORDS}
    assert entailment_scores(dict(zip(references, references)), references).tolist() == [1, 1, 1]
    assert entailment_scores(ENTAILMENT_WORDS, references).tolist() == [1, 1, 1]
    assert entailment_scores(dict.fromkeys(references, "dog"), references).tolist() == [0, 0, 0]


def test_other_words_of_judgement_name_a_label_too():
    """Each of the frozen model's words is right for one label and wrong for the other two."""
    labels = list(ENTAILMENT_WORDS)
    references = {label: [label] for label in labels}
    for words in (("yes", "no", "maybe"), ("true", "false", "unknown"), ("Yes.", " NO ", "maybe!")):
        for word, named in zip(words, labels):
            scores = entailment_scores(dict.fromkeys(labels, word), references)
            assert scores.tolist() == [label == named for label in labels]
    words = [word for synonyms in SYNONYMS.values() for word in synonyms]
    assert len(set(words)) == len(words), "a word that names two labels"
    assert {label: words[0] for label, words in SYNONYMS.items()} == ENTAILMENT_WORDS


def test_only_the_whole_answer_counts():
    references = {"a": ["entailment"], "b": ["contradiction"]}
    assert entailment_scores({"a": "yes it is", "b": "not correct"}, references).tolist() == [0, 0]


def test_an_unknown_gold_label_is_one_clear_line():
    with pytest.raises(UserError, match="gold label '-'") as error:
        entailment_scores({"q": "correct"}, {"q": ["-"]})
    assert "\n" not in str(error.value)
