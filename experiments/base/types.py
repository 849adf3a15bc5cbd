"""Types of options: numbers in a range, finite numbers, words, paths, names, seeds; and their readers.

A function that reads a type raises :class:`argparse.ArgumentTypeError`, with the remedy.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

LARGEST = 2**63 - 1  # beyond it, PyTorch and NumPy take no whole number
MOST_SEED = 2**31  # random generators take no larger ones


@dataclass(frozen=True)
class Between:
    """The type of an option with an integer from ``low`` to ``high``."""

    low: int
    high: int

    def __call__(self, text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise _wrong(text, "is not an integer, use a number such as 3") from None
        if not self.low <= value <= self.high:
            allowed = f"at least {self.low}" if self.high == LARGEST else f"from {self.low} to {self.high}"
            raise _wrong(text, f"is out of range, use a number {allowed}")
        return value


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _wrong(text, "is not a finite number, use a number such as 1.5")
    return value


def word(text: str) -> str:
    """A text that is not empty and valid UTF-8, since a shell can pass invalid bytes."""
    if not text.strip() or re.search("[\ud800-\udfff]", text):
        raise _wrong(text, "is empty or not UTF-8, use a text or remove the option")
    return text


def path(text: str) -> Path:
    """A path that is not empty (an empty one would be the working directory)."""
    if not text.strip() or "\0" in text:
        raise _wrong(text, "is empty or contains a zero byte, use a path")
    return Path(text)


class Several:
    """The type of a list's words: single values, or several separated by commas.

    Args:
        read: reader of one value.
        choices: all permitted values; empty if all values are permitted.
    """

    def __init__(self, read: Callable[[str], Any], choices: tuple[str, ...] = ()):
        self.read, self.choices = read, choices

    def __call__(self, text: str) -> list[Any]:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if not parts:
            raise _wrong(text, "is empty, use values separated by commas or spaces")
        if self.choices and (wrong := [part for part in parts if part not in self.choices]):
            raise argparse.ArgumentTypeError(
                f"invalid choice: {wrong[0]!r} (choose from {', '.join(self.choices)})"
            )
        return list(map(self.read, parts))


def seed_range(text: str) -> range:
    """``3`` for the seeds 0, 1, 2, and ``4-6`` for 4, 5, 6."""
    match = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", text)
    if match is None:
        raise _wrong(text, "is not a number of seeds, use a number or FIRST-LAST")
    first, last = (0, int(match[1]) - 1) if match[2] is None else (int(match[1]), int(match[2]))
    if not first <= last < MOST_SEED:
        raise _wrong(text, f"is out of range, use at least one seed, and seeds below {MOST_SEED}")
    return range(first, last + 1)


def _wrong(text: str, why: str) -> argparse.ArgumentTypeError:
    shown = ascii(text) if len(text) <= 40 else f"{text[:40]!a}..."
    return argparse.ArgumentTypeError(f"{shown} {why}")


Seed = Annotated[int, Between(0, 2**32 - 1)]  # what NumPy takes
Positive = Annotated[int, Between(1, LARGEST)]
Names = tuple[str, ...]
Word = Annotated[str, word]  # one of several that may hold commas
Seeds = Annotated[Sequence[int], seed_range]

#: Type -> the function that reads it; None for options without a type.
READERS: dict[type | None, Callable[[str], Any]] = {
    int: Between(-LARGEST, LARGEST),
    float: number,
    Path: path,
    None: word,
}
METAVARS = {int: "N", float: "NUMBER", Path: "FOLDER"}  # of the others NAME
