"""Entailment accuracy: a generated word names one of three labels, as in SNLI-VE."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

import numpy as np

from attngraph.errors import UserError
from experiments.metrics.alignment import aligned, single_reference

ENTAILMENT_WORDS = {"entailment": "correct", "contradiction": "incorrect", "neutral": "ambiguous"}
ENTAILMENT_LABELS = {word: label for label, word in ENTAILMENT_WORDS.items()}


def entailment_scores(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> np.ndarray:
    """1 where the generated word (Correct, Incorrect, Ambiguous) names the gold label, else 0.

    Args:
        predictions: generated texts; anything but the three words or the labels themselves is wrong.
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
        word = prediction.lower().strip(string.punctuation + string.whitespace)
        scores.append(float(ENTAILMENT_LABELS.get(word, word) == label))
    return np.array(scores, dtype=np.float64)
