"""Accuracy by equality: with the one reference answer, as in easy-VQA, or with the gold label that a word
names, as in SNLI-VE.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

import numpy as np

from attngraph.errors import UserError
from experiments.metrics.statistics import aligned, single_reference

ENTAILMENT_WORDS = {"entailment": "correct", "contradiction": "incorrect", "neutral": "ambiguous"}

#: Words that name a label. The first is the one that is trained on; a model that was not trained on the task
#: judges a statement in words of its own, which mean the same.
SYNONYMS = {
    "entailment": (ENTAILMENT_WORDS["entailment"], "entailment", "yes", "true"),
    "contradiction": (ENTAILMENT_WORDS["contradiction"], "contradiction", "no", "false"),
    "neutral": (ENTAILMENT_WORDS["neutral"], "neutral", "maybe", "unknown"),
}
_LABELS = {word: label for label, words in SYNONYMS.items() for word in words}


def exact_scores(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> np.ndarray:
    """1 where the prediction is the one reference answer, case and outer space ignored, else 0.

    Returns:
        ``(N,)`` in the order of ``references``; the accuracy of a run is the mean.

    Raises:
        UserError: the ids differ, or an example does not have exactly one reference answer.
    """
    return np.array(
        [
            float(prediction.strip().lower() == single_reference(id, references).strip().lower())
            for id, prediction in aligned(predictions, references)
        ]
    )


def entailment_scores(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> np.ndarray:
    """1 where the generated word names the gold label, else 0.

    Args:
        predictions: generated texts; case and punctuation around the word do not count, and anything but a
            word of :data:`SYNONYMS` is wrong.
        references: one gold label for each example: entailment, contradiction or neutral.

    Returns:
        ``(N,)`` in the order of ``references``; the accuracy of a run is the mean.

    Raises:
        UserError: the ids differ, or a gold label is none of the three.
    """
    scores = []
    for id, prediction in aligned(predictions, references):
        label = single_reference(id, references)
        if label not in ENTAILMENT_WORDS:
            raise UserError(
                f"example {id} has the gold label {label!r}; expected one of "
                f"{', '.join(ENTAILMENT_WORDS)} (leave out pairs without a gold label)"
            )
        scores.append(float(named_label(prediction) == label))
    return np.array(scores, dtype=np.float64)


def named_label(text: str) -> str | None:
    """The label that a text names with a word of :data:`SYNONYMS`; None for any other text."""
    return _LABELS.get(text.lower().strip(string.punctuation + string.whitespace))
