"""Noise of real data for synthetic ones: annotators who disagree, and images of low quality."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageEnhance, ImageFilter

from attngraph.experiments.scenes.facts import COLUMNS, ROWS
from attngraph.experiments.scenes.scene import COLORS, SHAPES, SIZES

UNANSWERABLE = "unanswerable"
#: Numbers of annotators who give the answer, a synonym, a wrong answer, or give up; and the frequency of this
#: case. VQA accuracy counts agreement, so annotators who always agree would not test it.
PATTERNS = {(10, 0, 0, 0): 10, (8, 2, 0, 0): 4, (7, 1, 2, 0): 3, (5, 1, 3, 1): 2, (4, 2, 3, 1): 1}
LEVELS = {"good": 60, "poor": 25, "bad": 15}  # and how common they are, in per cent
#: Fault -> the range of its amount in poor images, and in bad ones.
FAULTS = {
    "blurred": ((0.8, 1.5), (6.0, 9.0)),  # radius in pixels
    "dark": ((0.4, 0.65), (0.02, 0.06)),  # brightness
    "cut": ((0.8, 0.9), (0.2, 0.3)),  # share of each side that is left
    "turned": ((-20.0, 20.0), None),  # degrees; no reason by itself not to recognise anything
}
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
    """Ten records ``{answer, answer_confidence}`` in random order, by annotators who give the correct answer
    or deviate; at least ``give_up`` of them are unsure, because of a bad image.
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
    """The most frequent answer; of several, the first one."""
    return Counter(record["answer"] for record in records).most_common(1)[0][0]


def _rival(answer: str, rng: random.Random) -> str:
    """A wrong answer of the same kind."""
    known = next((kind for kind in _KINDS if answer in kind), ("yes", "no"))
    return rng.choice([other for other in known if other != answer])


@dataclass(frozen=True)
class Quality:
    """Quality of an image.

    Args:
        level: "good", "poor" (things can be recognised), or "bad" (they cannot).
        fault: one of :data:`FAULTS`; None for good images.
        amount: strength of the fault.
    """

    level: str
    fault: str | None = None
    amount: float = 0.0

    @property
    def keeps_places(self) -> bool:
        """Whether the positions of things are unchanged."""
        return self.fault not in ("cut", "turned")


def any_quality(rng: random.Random) -> Quality:
    """A random quality."""
    level = rng.choices(list(LEVELS), list(LEVELS.values()))[0]
    if level == "good":
        return Quality(level)
    ranges = {fault: both[level == "bad"] for fault, both in FAULTS.items()}
    fault = rng.choice([name for name, span in ranges.items() if span is not None])
    low, high = ranges[fault]
    return Quality(level, fault, round(rng.uniform(low, high), 3))


def taken(picture: Image.Image, quality: Quality) -> Image.Image:
    """The image in this quality, in the same size."""
    amount = quality.amount
    if quality.fault == "blurred":
        return picture.filter(ImageFilter.GaussianBlur(amount))
    if quality.fault == "dark":
        return ImageEnhance.Brightness(picture).enhance(amount)
    if quality.fault == "cut":
        width, height = (max(1, round(side * amount)) for side in picture.size)
        return picture.crop((0, 0, width, height)).resize(picture.size, Image.Resampling.BICUBIC)
    if quality.fault == "turned":
        return picture.rotate(amount, Image.Resampling.BICUBIC, fillcolor=picture.getpixel((0, 0)))
    return picture
