"""The ten answers that annotators give to a question: most agree, some use another word, some are wrong.

VQA accuracy counts agreement, so that answers which all agree would leave half of it untried.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from experiments.scenes.facts import COLUMNS, ROWS
from experiments.scenes.scene import COLORS, SHAPES, SIZES

UNANSWERABLE = "unanswerable"
#: How many say the answer, say it in another word, say a wrong one, and give up; and how common that is.
PATTERNS = {(10, 0, 0, 0): 10, (8, 2, 0, 0): 4, (7, 1, 2, 0): 3, (5, 1, 3, 1): 2, (4, 2, 3, 1): 1}
SYNONYMS = {
    **dict(zip("012345", ("none", "one", "two", "three", "four", "five"))),
    "purple": "violet",
    "cyan": "light blue",
    "brown": "dark brown",
    "orange": "light orange",
    "circle": "round",
    "square": "box",
    "cross": "plus",
    "diamond": "rhombus",
    "small": "little",
    "large": "big",
    "yes": "yes it is",
    "no": "nope",
}
_KINDS = (("yes", "no"), tuple("012345"), tuple(COLORS), SHAPES, tuple(SIZES), ROWS + COLUMNS)


def ten_answers(answer: str, rng: random.Random, unsure: str = "unknown", give_up: int = 0) -> list[dict]:
    """Ten records ``{answer, answer_confidence}`` in random order.

    Args:
        answer: the right one.
        rng: decides who deviates.
        unsure: what is said by those who give up.
        give_up: how many give up at least, because the picture is bad.
    """
    right, other, wrong, lost = rng.choices(list(PATTERNS), list(PATTERNS.values()))[0]
    synonym, rival = SYNONYMS.get(answer, answer), _rival(answer, rng)
    said = [answer] * right + [synonym] * other + [rival] * wrong + [unsure] * lost
    said = [unsure] * max(0, give_up - lost) + said
    records = []
    for text in said[:10]:
        sure = {answer: (18, 2, 0), unsure: (1, 2, 3)}.get(text, (2, 3, 1))
        records.append({"answer": text, "answer_confidence": rng.choices(("yes", "maybe", "no"), sure)[0]})
    rng.shuffle(records)
    return records


def most_common(records: Sequence[dict]) -> str:
    """The answer that most give; of several, the one that comes first."""
    return Counter(record["answer"] for record in records).most_common(1)[0][0]


def _rival(answer: str, rng: random.Random) -> str:
    """A wrong answer of the same kind."""
    known = next((kind for kind in _KINDS if answer in kind), ("yes", "no"))
    return rng.choice([other for other in known if other != answer])
