"""VizWiz-VQA accuracy: a generated answer against those of ten annotators, as VizWiz's evaluator scores it.

The evaluator is ``PythonEvaluationTools/vqaEvaluation/vqaEval.py`` of the API that https://vizwiz.org hands
out. It was made from VQA v2's (:mod:`experiments.metrics.vqa`) and differs from it: the annotators' answers
are never processed, the generated answer always is, and the table of contractions has typographic
apostrophes.

Its second task is whether a question can be answered from its picture, by average precision and F1. It looks
for questions that can *not* be answered: they are the positive class of both scores, though the files say how
answerable a question is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score

from attngraph.errors import UserError
from experiments.metrics.statistics import aligned
from experiments.metrics.vqa import CONTRACTIONS, agreement, normalise_answer

THRESHOLD = 0.5  # a question is called unanswerable where 1 - answerable is above it

_STRAIGHT = ("ain't", "aren't", "can't", "could've", "couldn't", "we've", "where's", "who've")
_MIXED = ("couldn’tve", "hadn’tve")  # these two have a straight apostrophe as words to be replaced


def _contractions() -> dict[str, str]:
    """The evaluator's table: VQA v2's with typographic apostrophes, all but a few."""
    table = {word.replace("'", "’"): right.replace("'", "’") for word, right in CONTRACTIONS.items()}
    table |= {word.replace("'", ""): word for word in _STRAIGHT}
    return table | {word.replace("’", "'"): table.pop(word) for word in _MIXED}


_CONTRACTIONS = _contractions()


def normalise_prediction(answer: str) -> str:
    """A generated answer as the evaluator compares it with the annotators'.

    The rules are those of :func:`experiments.metrics.vqa.normalise_answer`. But "dont" becomes "don’t", with
    a typographic apostrophe, which annotators hardly ever type: such an answer is wrong where an annotator
    wrote "don't" or "dont". With "cant", "wheres" and six other words it is "can't" and "where's".
    """
    return normalise_answer(answer, _CONTRACTIONS)


def vizwiz_scores(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> np.ndarray:
    r"""VizWiz-VQA accuracy of each example (Gurari et al. 2018).

    With the answers :math:`r_1, \dots, r_A` of an image's annotators as they stand in the file, and the
    prediction :math:`\hat r` processed by :func:`normalise_prediction`, each annotator is left out once:

    .. math:: \frac{1}{A} \sum_{k} \min\Big(\frac{1}{3} \sum_{l \ne k} 1[\hat r = r_l],\ 1\Big)

    Nothing is done to :math:`r_l`: an annotator's "Yes", "t-shirt", "the dog" or "two" is met by no
    prediction. Annotators are left out by their place, so two equal answers count twice (VQA v2's evaluator,
    run on VizWiz's files, whose answers have no ids, leaves out all that are equal).

    Returns:
        ``(N,)`` in the order of ``references``; the accuracy of a run is the mean.

    Raises:
        UserError: the ids differ, or an image has fewer than four answers.
    """
    scores = []
    for id, prediction in aligned(predictions, references):
        given = normalise_prediction(prediction)
        scores.append(agreement(id, [answer == given for answer in references[id]]))
    return np.array(scores, dtype=np.float64)


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
