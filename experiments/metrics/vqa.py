"""VQA accuracy: a generated answer against those of ten annotators, as in VQA v2."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

import numpy as np

from attngraph.errors import UserError
from experiments.metrics.alignment import aligned

_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    word: str(n) for n, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}

# Apostrophe and colon stay by the published rule, the full stop has its own rule, and signs that carry
# meaning ("50%", "$5") are no punctuation marks here.
_TO_SPACE = "".join(sorted(set(string.punctuation) - set("':.$%&#*^~|")))
_SPACES = str.maketrans(_TO_SPACE, " " * len(_TO_SPACE)) | {ord("’"): "'"}


def _contractions() -> dict[str, str]:
    """English contractions built from their grammar: spelling without apostrophes -> spelling with them."""
    negated = [
        stem + "n't"
        for stem in (
            "ai are ca could did does do had has have is might must need ought sha should was were wo would"
        ).split()
    ]
    endings = {
        "'ve": "could might must should would i you we they there what where who why".split() + negated,
        "'d": "he how i it she that there they we where who why you".split(),
        "'ll": "how i it she he that there they we what who you".split(),
        "'re": "they what who why you we there".split(),
        "'s": "he how it she somebody someone something that there what when where who why".split(),
        "'m": ["i"],
    }
    full = negated + ["ma'am", "o'clock", "y'all"]
    full += [stem + ending for ending, stems in endings.items() for stem in stems]
    full += [stem + "'d've" for stem in endings["'d"]]
    words_of_their_own = {"hell", "id", "ill", "its", "shed", "shell", "wed", "well", "were", "whore"}
    table = {word.replace("'", ""): word for word in full}
    return {bare: word for bare, word in table.items() if bare not in words_of_their_own}


_CONTRACTIONS = _contractions()


def normalise_answer(answer: str) -> str:
    """An answer as the VQA evaluation compares it.

    Written from the published description (https://visualqa.org/evaluation.html): lower case; full stops
    removed except in decimals; commas between digits removed; other punctuation but apostrophe and colon
    becomes a space; number words up to ten become digits; articles are dropped; missing apostrophes of
    contractions are put back (not in words that exist without one, such as *its* or *well*). Applied to
    predictions and references alike.
    """
    text = answer.lower().strip()
    text = re.sub(r"(?<=\d),(?=\d)", "", text)
    text = re.sub(r"\.(?!\d)|(?<=[^\W\d])\.", "", text)
    words = text.translate(_SPACES).split()
    words = [_NUMBERS.get(word, word) for word in words if word not in _ARTICLES]
    return " ".join(_CONTRACTIONS.get(word.replace("'", ""), word) for word in words)


def vqa_scores(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> np.ndarray:
    r"""VQA accuracy of each example (Antol et al. 2015, Goyal et al. 2017).

    With the answers :math:`r_1, \dots, r_A` of a question's annotators and the prediction :math:`\hat r`, all
    normalised by :func:`normalise_answer`, each annotator is left out once:

    .. math:: \frac{1}{A} \sum_{k} \min\Big(\frac{1}{3} \sum_{l \ne k} 1[\hat r = r_l],\ 1\Big)

    Returns:
        ``(N,)`` in the order of ``references``; the accuracy of a run is the mean.

    Raises:
        UserError: the ids differ, or a question has fewer than four answers (three matches besides the
            annotator left out could then never happen).
    """
    scores = []
    for id, prediction in aligned(predictions, references):
        given = [normalise_answer(reference) for reference in references[id]]
        count = len(given)
        if count < 4:
            raise UserError(
                f"VQA accuracy needs at least 4 annotators' answers, example {id} has {count}; "
                "score data with one answer by exact match"
            )
        matches = given.count(normalise_answer(prediction))
        # an annotator who agrees is left out of `matches` when their turn comes
        scores.append((matches * min((matches - 1) / 3, 1) + (count - matches) * min(matches / 3, 1)) / count)
    return np.array(scores, dtype=np.float64)
