"""VizWiz's second task: whether a question can be answered from its picture, by average precision and F1.

The evaluator (:mod:`experiments.metrics.vizwiz` says which) looks for questions that can *not* be answered:
they are the positive class of both scores, though the files say how answerable a question is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score

from attngraph.errors import UserError
from experiments.metrics.alignment import aligned

THRESHOLD = 0.5  # a question is called unanswerable where 1 - answerable is above it


@dataclass(frozen=True)
class AnswerabilityScores:
    """Scores of one run on N examples.

    Args:
        average_precision: of the unanswerable, 0 to 1. It depends on the order of all predictions, so it is
            no function of sums over examples: a bootstrap has to compute it anew for each resample.
        f1: of the unanswerable, 0 to 1; :func:`f1_from_counts` of the summed ``counts``.
        counts: ``(N, 3)`` unanswerable and called so, called so alone, unanswerable alone: 1 or 0.
    """

    average_precision: float
    f1: float
    counts: np.ndarray


def answerability_scores(
    predictions: Mapping[str, float], answerable: Mapping[str, int]
) -> AnswerabilityScores:
    r"""Average precision and F1 of the questions that cannot be answered.

    With the share :math:`a_i` that a model gives to "answerable", :math:`u_i = 1 - a_i` ranks the questions;
    average precision is :math:`\sum_n (R_n - R_{n-1}) P_n` over the thresholds :math:`n` of :math:`u`
    (scikit-learn's, without interpolation), and F1 calls :math:`u_i > 1/2` unanswerable.

    Args:
        predictions: example id -> how sure it is that the question can be answered, 0 to 1.
        answerable: example id -> 1, or 0 for a question that cannot be answered.

    Raises:
        UserError: the ids differ, a value is out of range, or every question can be answered.
    """
    pairs = aligned(predictions, answerable)
    for id, sure in pairs:
        if not 0 <= sure <= 1:  # NaN is refused too
            raise UserError(f"example {id} has the prediction {sure}; give a number from 0 to 1")
        if answerable[id] not in (0, 1):
            raise UserError(f"example {id} is answerable {answerable[id]!r}; give 0 or 1")
    positive = np.array([1 - answerable[id] for id, _ in pairs])
    if not positive.any():
        raise UserError("every question can be answered, so nothing is to be found: give data with others")
    unanswerable = 1.0 - np.array([sure for _, sure in pairs], dtype=np.float64)
    called = unanswerable > THRESHOLD
    counts = np.stack([positive * called, (1 - positive) * called, positive * ~called], axis=-1)
    return AnswerabilityScores(
        float(average_precision_score(positive, unanswerable)),
        float(f1_from_counts(counts.sum(axis=0))),
        counts.astype(np.float64),
    )


def f1_from_counts(totals: np.ndarray) -> np.ndarray:
    """F1 ``(...)`` from summed :attr:`AnswerabilityScores.counts` ``(..., 3)``; 0 where nothing was found and
    nothing was to be found.
    """
    totals = np.asarray(totals, dtype=np.float64)
    right, alone, missed = totals[..., 0], totals[..., 1], totals[..., 2]
    return 2 * right / np.maximum(2 * right + alone + missed, 1e-300)
