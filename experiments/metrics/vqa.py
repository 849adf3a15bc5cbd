"""VQA accuracy: a generated answer against those of ten annotators, as in the evaluators of VQA v2 and
VizWiz, including their peculiarities, so that scores are comparable with published ones.

- VQA v2: https://github.com/GT-Vision-Lab/VQA, ``PythonEvaluationTools/vqaEvaluation/vqaEval.py`` in its
  version of March 2021.
- VizWiz: the same file of the API from https://vizwiz.org. It is derived from VQA v2's, with these
  differences: the annotators' answers are never processed, the generated answer always is, and the table of
  contractions has typographic apostrophes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from attngraph.errors import UserError
from attngraph.experiments.metrics.statistics import aligned

FEWEST_ANSWERS = 4  # with fewer, three matches besides the annotator left out can never happen

_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    word: str(n) for n, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
_PUNCTUATION = '!"()+,-/;<=>?@[\\]_`{}'  # others, such as those of "50%" and "10:30", stay
_DIGITS_AROUND_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS = 32  # the evaluator removes no more than these: it passes a flag of that value as the count

_SPELLINGS = """
    'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've
    hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
    mightn't've must've mustn't needn't not've o'clock oughtn't shan't she'd've should've shouldn't
    shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
    something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
    they'll they're they've wasn't we'd've we've weren't what'll what're what's what've when's where'd
    where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
    wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""


#: VQA v2's table: each spelling without one of its apostrophes -> the spelling. One entry is
#: reversed. Entries for capital letters or equal spellings have no effect and are omitted.
CONTRACTIONS = {
    word[: mark.start()] + word[mark.end() :]: word
    for word in _SPELLINGS.split()
    for mark in re.finditer("'", word)
} | {"somebody'd": "somebodyd"}
_STRAIGHT = ("ain't", "aren't", "can't", "could've", "couldn't", "we've", "where's", "who've")
#: VizWiz' table: VQA v2's with typographic apostrophes, all but a few.
VIZWIZ_CONTRACTIONS = {
    word.replace("'", "’"): right.replace("'", "’") for word, right in CONTRACTIONS.items()
} | {word.replace("'", ""): word for word in _STRAIGHT}
for _word in ("couldn’tve", "hadn’tve"):  # these two have a straight one as words to be replaced
    VIZWIZ_CONTRACTIONS[_word.replace("’", "'")] = VIZWIZ_CONTRACTIONS.pop(_word)


def normalise_answer(answer: str, contractions: Mapping[str, str] = CONTRACTIONS) -> str:
    """An answer normalised for comparison if annotators differ.

    In this order:

    1. Line feeds and tabs become spaces, surrounding white space is removed.
    2. Each of the marks ``!"()+,-/;<=>?@[\\]_{}`` and the backtick is deleted everywhere if it is next to a
       space somewhere, or if there is a comma between two digits anywhere; otherwise it becomes a space.
    3. The first 32 periods that are not followed by a digit are deleted.
    4. Lower case, words split at white space, number words up to ten become digits, articles are dropped.
    5. Words that lack an apostrophe get it back if the evaluator's table has them ("dont", but not "im").

    Args:
        answer: the original answer.
        contractions: the evaluator's table, word -> replacement.
    """
    text = _one_line(answer)
    all_deleted = _DIGITS_AROUND_COMMA.search(text) is not None
    marks = {
        ord(mark): "" if all_deleted or f"{mark} " in text or f" {mark}" in text else " "
        for mark in _PUNCTUATION
    }
    text = _PERIOD.sub("", text.translate(marks), count=_PERIODS)
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def vqa_scores(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> np.ndarray:
    r"""VQA accuracy of each example (Antol et al. 2015, Goyal et al. 2017).

    With the answers :math:`r_1, \dots, r_A` of a question's annotators and the prediction :math:`\hat r`,
    each annotator is excluded once:

    .. math:: \frac{1}{A} \sum_{k} \min\Big(\frac{1}{3} \sum_{l \ne k} 1[\hat r = r_l],\ 1\Big)

    If all annotators gave the same answer, prediction and answer are compared without normalisation ("Yes" is
    not "yes"), except for surrounding white space, line feeds and tabs. Otherwise both are normalised by
    :func:`normalise_answer`.

    Returns:
        ``(N,)`` in the order of ``references``; the accuracy of a run is the mean.

    Raises:
        UserError: the ids differ, or a question has fewer than four answers.
    """
    normalised = lru_cache(2**16)(normalise_answer)  # most answers are among a few thousand
    scores = []
    for id, prediction in aligned(predictions, references):
        answers = [_one_line(answer) for answer in references[id]]
        processed = normalised if len(set(answers)) > 1 else _one_line
        given = processed(prediction)
        scores.append(agreement(id, [processed(answer) == given for answer in answers]))
    return np.array(scores, dtype=np.float64)


def vizwiz_scores(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> np.ndarray:
    r"""VizWiz-VQA accuracy of each example (Gurari et al. 2018): the mean of :func:`vqa_scores`, but the
    prediction is always normalised, with VizWiz' contractions, and the answers are not: no prediction matches
    an annotator's "Yes", "t-shirt", "the dog" or "two".

    "dont" becomes "don’t", with a typographic apostrophe, which annotators hardly ever type: such an answer
    is wrong if an annotator wrote "don't" or "dont". For "cant", "wheres" and six other words the result is
    "can't" and "where's". Annotators are excluded by position, so two equal answers count twice.

    Returns:
        ``(N,)`` in the order of ``references``; the accuracy of a run is the mean.

    Raises:
        UserError: the ids differ, or an image has fewer than four answers.
    """
    scores = []
    for id, prediction in aligned(predictions, references):
        given = normalise_answer(prediction, VIZWIZ_CONTRACTIONS)
        scores.append(agreement(id, [answer == given for answer in references[id]]))
    return np.array(scores, dtype=np.float64)


def agreement(id: str, agrees: Sequence[bool]) -> float:
    """The accuracy of one answer, given which annotators agree with it, each annotator excluded once.

    Raises:
        UserError: there are fewer than four annotators.
    """
    if len(agrees) < FEWEST_ANSWERS:
        raise UserError(
            f"VQA accuracy needs at least {FEWEST_ANSWERS} annotators' answers, example {id} has "
            f"{len(agrees)}; score data with one answer by exact match"
        )
    # an annotator who agrees is not counted when their turn comes to be left out
    return sum(min((sum(agrees) - own) / 3, 1) for own in agrees) / len(agrees)
