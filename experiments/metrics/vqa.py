"""Accuracies of generated answers: VQA (ten annotators), entailment (one label), easy-VQA (one answer).

Every function takes ``predictions`` and ``references`` keyed by example id and returns one score in [0, 1]
per example, in the order of ``references``; the accuracy of a run is the mean.
"""

import re
import string
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from attngraph.errors import UserError

ENTAILMENT_WORDS = {"entailment": "correct", "contradiction": "incorrect", "neutral": "ambiguous"}
ENTAILMENT_LABELS = {word: label for label, word in ENTAILMENT_WORDS.items()}

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
    r"""VQA accuracy of each example.

    With the :math:`A` annotators' answers :math:`r_k` of a question, each annotator is left out once:

    .. math:: \frac{1}{A} \sum_{k} \min\Big(\frac{1}{3} \sum_{l \ne k} 1[\hat r = r_l],\ 1\Big)

    Raises:
        UserError: a prediction is missing, or a question has fewer than four answers (three matches besides
            the annotator left out could then never happen).
    """
    answers = aligned(predictions, references)
    scores = []
    for id, prediction in answers:
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


def exact_scores(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> np.ndarray:
    """1 where the prediction is the one reference answer, case and outer space ignored, else 0."""
    return np.array(
        [
            float(prediction.strip().lower() == _only(id, references).strip().lower())
            for id, prediction in aligned(predictions, references)
        ]
    )


def entailment_scores(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> np.ndarray:
    """1 where the generated word (Correct, Incorrect, Ambiguous) names the gold label, else 0.

    Args:
        predictions: generated text; anything but the three words or the labels themselves is wrong.
        references: one gold label per example: entailment, contradiction or neutral.
    Raises:
        UserError: a gold label is none of the three.
    """
    scores = []
    for id, prediction in aligned(predictions, references):
        label = _only(id, references)
        if label not in ENTAILMENT_WORDS:
            raise UserError(
                f"example {id} has the gold label {label!r}; expected one of "
                f"{', '.join(ENTAILMENT_WORDS)} (leave out pairs without a gold label)"
            )
        word = prediction.lower().strip(string.punctuation + string.whitespace)
        scores.append(float(ENTAILMENT_LABELS.get(word, word) == label))
    return np.array(scores, dtype=np.float64)


def scores_by_kind(scores: Sequence[float], kinds: Iterable[str]) -> dict[str, tuple[float, int]]:
    """Mean score and number of examples per question type, sorted by name.

    Args:
        scores: one score per example.
        kinds: the examples' types in the same order.
    """
    groups = defaultdict(list)
    for score, kind in zip(scores, kinds, strict=True):
        groups[kind].append(score)
    return {kind: (float(np.mean(groups[kind])), len(groups[kind])) for kind in sorted(groups)}


def aligned(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """(id, prediction) in the order of the references; complains when the ids differ."""
    if not references:
        raise UserError("nothing to score: there are no reference answers; check the annotation file")
    missing = [id for id in references if id not in predictions]
    extra = [id for id in predictions if id not in references]
    if missing or extra:
        what, ids = ("no prediction", missing) if missing else ("no reference answer", extra)
        raise UserError(
            f"{what} for {len(ids)} example(s), first {ids[0]}; score predictions and "
            "annotations of the same split"
        )
    return [(id, predictions[id]) for id in references]


def _only(id: str, references: Mapping[str, Sequence[str]]) -> str:
    answers = references[id]
    if isinstance(answers, str) or len(answers) != 1:
        raise UserError(f"example {id} needs exactly one reference answer in a list, got {answers!r}")
    return answers[0]
