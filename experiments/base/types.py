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
    """The type of an option that takes a whole number, in ASCII digits, from ``low`` to ``high``.

    Args:
        low: the least.
        high: the greatest.
    """

    low: int
    high: int

    def __call__(self, text: str) -> int:
        if not re.fullmatch(r"\s*[+-]?[0-9]+\s*", text):
            raise argparse.ArgumentTypeError(f"{_short(text)} is no whole number, give one such as 3")
        if len(text) > 100 or not self.low <= int(text) <= self.high:
            raise argparse.ArgumentTypeError(f"{_short(text)} is out of range, give a number {self.range}")
        return int(text)

    @property
    def range(self) -> str:
        """The range in words."""
        return f"from {self.low} on" if self.high == LARGEST else f"from {self.low} to {self.high}"


def number(text: str) -> float:
    """A finite number in ASCII digits."""
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{_short(text)} is no finite number, give one such as 1.5")
    return value


def word(text: str) -> str:
    """A text that is not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the value is empty, give one or leave the option out")
    return text


def path(text: str) -> Path:
    """A path that is not empty (an empty one would be the folder that the command runs in)."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("the path is empty or holds a zero byte, give a path")
    return Path(text)


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas, each once."""
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not found:
        raise argparse.ArgumentTypeError("no name is given, give some separated by commas")
    return found


def seed_range(text: str) -> range:
    """``3`` for the seeds 0, 1, 2, and ``4-6`` for 4, 5, 6."""
    match = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", text.strip(), re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{_short(text)} gives no seeds, give a number of them or FIRST-LAST"
        )
    first, last = (0, int(match[1]) - 1) if match[2] is None else (int(match[1]), int(match[2]))
    if not 0 <= first <= last < MOST_SEED:
        raise argparse.ArgumentTypeError(
            f"{_short(text)} is out of range, give at least one seed, of those below {MOST_SEED}"
        )
    return range(first, last + 1)


def _short(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:40]!r}..."


Seed = Annotated[int, Between(0, 2**32 - 1)]  # what NumPy takes
Positive = Annotated[int, Between(1, LARGEST)]
Names = Annotated[tuple[str, ...], names]
Seeds = Annotated[range, seed_range]

#: Type -> the function that reads it; None for the type of options that name none.
READERS: dict[type | None, Callable[[str], Any]] = {
    int: Between(-LARGEST, LARGEST),
    float: number,
    Path: path,
    None: word,
}
METAVARS = {int: "N", float: "NUMBER", Path: "FOLDER", tuple: "NAMES"}  # of the others NAME
