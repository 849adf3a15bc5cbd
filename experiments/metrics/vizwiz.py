"""VizWiz-VQA accuracy: a generated answer against those of ten annotators, as VizWiz's evaluator scores it.

The evaluator is ``PythonEvaluationTools/vqaEvaluation/vqaEval.py`` of the API that https://vizwiz.org hands
out. It was made from VQA v2's (:mod:`experiments.metrics.vqa`) and differs from it: the annotators' answers
are never processed, the generated answer always is, and the table of contractions has typographic
apostrophes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.metrics.alignment import aligned
from experiments.metrics.vqa import CONTRACTIONS, agreement, normalise_answer

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
