"""Accuracy by equality: with the single reference answer, as in easy-VQA, or with the gold label named by a
word, as in SNLI-VE.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

import numpy as np

from attngraph.errors import UserError
from attngraph.experiments.metrics.statistics import aligned

#: Words that name a label. The first is the training target; a model that was not trained on the task uses
#: other words with the same meaning.
SYNONYMS = {
    "entailment": ("correct", "entailment", "yes", "true"),
    "contradiction": ("incorrect", "contradiction", "no", "false"),
    "neutral": ("ambiguous", "neutral", "maybe", "unknown"),
}
ENTAILMENT_WORDS = {label: words[0] for label, words in SYNONYMS.items()}
_LABELS = {word: label for label, words in SYNONYMS.items() for word in words}
_GOLD = [[label] for label in SYNONYMS]


def exact_scores(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> np.ndarray:
    """1 if the prediction is the single reference answer, ignoring case and surrounding space, else 0.

    Returns:
        ``(N,)`` in the order of ``references``; the accuracy of a run is the mean.
    """
    pairs = [(prediction, references[id]) for id, prediction in aligned(predictions, references)]
    return np.array([float(said.strip().lower() == right.strip().lower()) for said, (right,) in pairs])


def entailment_scores(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> np.ndarray:
    """1 if the generated word names the gold label (one for each example), else 0. Case and punctuation
    around the word are ignored, and anything except a word of :data:`SYNONYMS` is wrong.

    Returns:
        ``(N,)`` in the order of ``references``; the accuracy of a run is the mean.

    Raises:
        UserError: a gold label is not one of the three.
    """
    pairs = [(named_label(prediction), references[id]) for id, prediction in aligned(predictions, references)]
    for id, gold in references.items():
        if list(gold) not in _GOLD:
            raise UserError(f"example {id} has the label {gold!r}: use one of {', '.join(SYNONYMS)}")
    return np.array([float(label == gold) for label, (gold,) in pairs])


def named_label(text: str) -> str | None:
    """The label named by a text with a word of :data:`SYNONYMS`; None for any other text."""
    return _LABELS.get(text.lower().strip(string.punctuation + string.whitespace))
