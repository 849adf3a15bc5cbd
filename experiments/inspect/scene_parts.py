"""The things of a drawn scene that words name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from experiments.inspect.questions import region
from experiments.scenes.facts import Description, plural
from experiments.scenes.scene import HUGE_COLORS, HUGE_SHAPES, SIZES, Scene

SHAPE_NAMES = {word: shape for shape in HUGE_SHAPES for word in (shape, plural(shape))}
_ATTRIBUTES = {
    **{word: ("shape", shape) for word, shape in SHAPE_NAMES.items()},
    **{color: ("color", color) for color in HUGE_COLORS},
    **{size: ("size", size) for size in (*SIZES, "huge")},
}
_ANY_SHAPE = {word for noun in ("thing", "object", "item", "shape") for word in (noun, plural(noun))}


@dataclass(frozen=True)
class SceneParts:
    """The things of a scene as parts of its picture, numbered as they are listed.

    Args:
        scene: what is drawn.
    """

    scene: Scene

    def named(self, words: Sequence[str]) -> list[frozenset[int]]:
        """The things that each word names, together with the words of its phrase that come before: at "red"
        of "a red circle" all red things, at "circle" the red circles. Empty for words that name nothing."""
        return [self._fitting(phrase) for phrase in _phrases(words)]

    def asked(self, words: Sequence[str]) -> frozenset[int]:
        """The things that the whole phrases of a text name, taken together."""
        phrases = [*_phrases(words), Description()]
        ends = (phrase for phrase, following in pairwise(phrases) if not _continues(phrase, following))
        return frozenset().union(*map(self._fitting, ends))

    def masks(self, rows: int, columns: int) -> Tensor | None:
        """Which patches show each thing, bool ``(things, rows * columns)``; None where the grid is no
        square."""
        if rows != columns:
            return None
        return torch.stack([region(self.scene, thing, rows) for thing in self.scene.things])

    def _fitting(self, phrase: Description) -> frozenset[int]:
        if phrase == Description():
            return frozenset()
        return frozenset(k for k, thing in enumerate(self.scene.things) if phrase.fits(thing))


def _phrases(words: Sequence[str]) -> Iterator[Description]:
    """For each word, the description that its phrase has given so far; an empty one where it gives none."""
    phrase = Description()
    for word in map(str.lower, words):
        if word in _ANY_SHAPE:
            yield phrase
            phrase = Description()
            continue
        if word not in _ATTRIBUTES:
            phrase = Description()
        else:
            name, value = _ATTRIBUTES[word]
            if phrase.shape is not None or getattr(phrase, name) is not None:
                phrase = Description()
            phrase = replace(phrase, **{name: value})
        yield phrase


def _continues(phrase: Description, following: Description) -> bool:
    """Whether the next word's description is that of the same phrase."""
    parts = ("size", "color", "shape")
    return phrase != Description() and all(
        getattr(phrase, part) in (None, getattr(following, part)) for part in parts
    )
