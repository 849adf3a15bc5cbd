"""What a bad input is: a name, a function that prepares it, and what the message must name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.experiments.bad_inputs.world import World


@dataclass(frozen=True)
class Case:
    """One bad input.

    Args:
        name: command, what is wrong and how.
        words: given the world and an empty folder of its own, the words after ``attngraph``; what is damaged
            is written into the folder.
        named: the message holds one of these.
    """

    name: str
    words: Callable[[World, Path], list[str]]
    named: tuple[str, ...]
