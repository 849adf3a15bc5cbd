"""Types of options: numbers in a range, finite ones, words, paths, names, seeds; and what reads them.

A function that reads a type raises :class:`argparse.ArgumentTypeError`, with the remedy.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

LARGEST = 2**63 - 1  # beyond it, PyTorch and NumPy take no whole number
MOST_SEED = 2**31  # random generators take no larger ones


@dataclass(frozen=True)
class Between:
    """The type of an option that takes a whole number from ``low`` to ``high``."""

    low: int
    high: int

    def __call__(self, text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise _wrong(text, "is no whole number, give one such as 3") from None
        if not self.low <= value <= self.high:
            up_to = "on" if self.high == LARGEST else f"to {self.high}"
            raise _wrong(text, f"is out of range, give a number from {self.low} {up_to}")
        return value


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _wrong(text, "is no finite number, give one such as 1.5")
    return value


def word(text: str) -> str:
    """A text that is not empty, in whole characters: a shell can give half ones."""
    if not text.strip() or re.search("[\ud800-\udfff]", text):
        raise _wrong(text, "is empty or no UTF-8, give a text or leave the option out")
    return text


def path(text: str) -> Path:
    """A path that is not empty (an empty one would be the folder that the command runs in)."""
    if not text.strip() or "\0" in text:
        raise _wrong(text, "is empty or holds a zero byte, give a path")
    return Path(text)


class Several:
    """The type of a list's words: values, or several with commas between them.

    Args:
        read: reads one of them.
        choices: all that there are; none for values of any kind.
    """

    def __init__(self, read: Callable[[str], Any], choices: tuple[str, ...] = ()):
        self.read, self.choices = read, choices

    def __call__(self, text: str) -> list[Any]:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if not parts:
            raise _wrong(text, "names nothing, give values separated by commas or spaces")
        if self.choices and (wrong := [part for part in parts if part not in self.choices]):
            raise argparse.ArgumentTypeError(
                f"invalid choice: {wrong[0]!r} (choose from {', '.join(self.choices)})"
            )
        return list(map(self.read, parts))


def seed_range(text: str) -> range:
    """``3`` for the seeds 0, 1, 2, and ``4-6`` for 4, 5, 6."""
    match = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", text)
    if match is None:
        raise _wrong(text, "gives no seeds, give a number of them or FIRST-LAST")
    first, last = (0, int(match[1]) - 1) if match[2] is None else (int(match[1]), int(match[2]))
    if not first <= last < MOST_SEED:
        raise _wrong(text, f"is out of range, give at least one seed, of those below {MOST_SEED}")
    return range(first, last + 1)


def _wrong(text: str, why: str) -> argparse.ArgumentTypeError:
    shown = ascii(text) if len(text) <= 40 else f"{text[:40]!a}..."
    return argparse.ArgumentTypeError(f"{shown} {why}")


Seed = Annotated[int, Between(0, 2**32 - 1)]  # what NumPy takes
Positive = Annotated[int, Between(1, LARGEST)]
Names = tuple[str, ...]
Word = Annotated[str, word]  # one of several that may hold commas
Seeds = Annotated[range, seed_range]

#: Type -> the function that reads it; None for the type of options that name none.
READERS: dict[type | None, Callable[[str], Any]] = {
    int: Between(-LARGEST, LARGEST),
    float: number,
    Path: path,
    None: word,
}
METAVARS = {int: "N", float: "NUMBER", Path: "FOLDER"}  # of the others NAME
