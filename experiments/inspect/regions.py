"""Relevant patches for the words of a text: those of the named object, and of the object of a question.

The positions of objects are known for synthetic scenes; for other images they are read from a file of boxes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, RootModel, StringConstraints
from torch import Tensor

from attngraph import AttentionGraph
from attngraph.analysis.contrast import Region
from attngraph.analysis.plots.heterophily import stack
from attngraph.analysis.relevance import image_nodes
from attngraph.errors import UserError
from attngraph.experiments.base.config import Config, checked
from attngraph.experiments.base.reading import read_json
from attngraph.experiments.inspect.words import grids_of, word_spans, words_of
from attngraph.experiments.models.batch import Batch, Sample
from attngraph.experiments.models.images import open_image
from attngraph.experiments.scenes.drawing import patch_targets
from attngraph.experiments.scenes.facts import Description, plural
from attngraph.experiments.scenes.scene import HUGE_COLORS, HUGE_SHAPES, SIZES, Scene, Thing

NAMED, ASKED = "named region", "asked region"
NO_GRID = (
    "no regions: the part of the image of each node is unknown (it is cropped or tiled, or its patches do "
    "not form a grid)"
)
NO_WORD = "no regions: no word of the texts names a known part of its image"

SHAPE_NAMES = {word: shape for shape in HUGE_SHAPES for word in (shape, plural(shape))}
_ATTRIBUTES = {
    **{word: ("shape", shape) for word, shape in SHAPE_NAMES.items()},
    **{color: ("color", color) for color in HUGE_COLORS},
    **{size: ("size", size) for size in (*SIZES, "huge")},
}
_ANY_SHAPE = {word for noun in ("thing", "object", "item", "shape") for word in (noun, plural(noun))}

SHARE = 1 / 16  # of a patch that a part must cover to be shown by it, as in drawn scenes
FORMAT = 'use {"image.jpg": [{"box": [x, y, width, height], "words": ["dog"]}]}'


# ---- of a graph -------------------------------------------------------------------------------------------


class Regions:
    """The relevant values of a batch's graphs, if queries are words and values are patches.

    Args:
        samples: all samples.
        file: parts of the user's images by samples' names; None for those of synthetic scenes.
    """

    def __init__(self, samples: Sequence[Sample], file: Mapping[str, PictureParts] | None = None):
        self._parts: dict[str, SceneParts | PictureParts] = file or {
            sample.name: SceneParts(sample.scene) for sample in samples if sample.scene is not None
        }
        prompts = {sample.name: sample.prompt for sample in samples}
        self._asked = {
            name: parts.asked(re.findall(r"\w+", prompts[name])) for name, parts in self._parts.items()
        }
        self._without: dict[str, None] = {}  # stacks of layers whose patches have no known places
        self._looked = self._found = False  # for words that name a part

    def notes(self) -> list[str]:
        """A line for each stack of layers without regions in which words attend to images, and one if no word
        names a known part.
        """
        nothing = [NO_WORD] if self._looked and not self._found else []
        return [*(f"{name}: {NO_GRID}" for name in self._without), *nothing]

    def __call__(self, batch: Batch, name: str, graph: AttentionGraph) -> dict[str, Region]:
        """Regions of a graph.

        Returns:
            ``{name: region}``: "named region": for words that name an object, the patches of this object; and
            "asked region" for questions that name objects: for the token from which the answer's first token
            is predicted, the patches of all objects in the question. Empty if queries are not words, values
            are not patches, or parts are unknown.
        """
        words, image = words_of(batch, graph, 0), image_nodes(graph, 1).cpu()
        if not self._parts or words is None or not image.any():
            return {}
        grids = grids_of(batch, image)
        if grids is None:
            self._without[stack(name)] = None
            return {}
        candidates = torch.zeros_like(image)
        for nodes, line, (_, _, others) in zip(image, candidates, grids):
            line[nodes.nonzero()[others:, 0]] = True
        relevant = {NAMED: torch.zeros(*words.is_token.shape, image.shape[1], dtype=torch.bool)}
        prompt = None if batch.written is None else batch.written.prompt
        asks = any(self._asked.values()) and prompt is not None
        if asks and (batch.decoder is None or graph.causal):
            relevant[ASKED], asking = relevant[NAMED].clone(), words.node(prompt - 1)
        for k, (sample, line) in enumerate(zip(batch.names, words.lines())):
            parts = self._parts.get(sample)
            masks = None if parts is None else parts.masks(*grids[k][:2])
            if masks is None:
                continue
            spans = word_spans(*line)
            for (span, _), named in zip(spans, parts.named([word for _, word in spans])):
                if named:
                    shown = masks[sorted(named)].any(0)
                    relevant[NAMED][k, span.start : span.stop, candidates[k]] = shown
            if ASKED in relevant and self._asked[sample]:
                relevant[ASKED][k, asking[k], candidates[k]] = masks[sorted(self._asked[sample])].any(0)
        self._looked, self._found = True, self._found or bool(relevant[NAMED].any())
        device = graph.query.device
        sizes = [(rows, columns) for rows, columns, _ in grids]
        return {
            kind: Region(mask.to(device), candidates.to(device), sizes) for kind, mask in relevant.items()
        }


# ---- of drawn scenes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SceneParts:
    """The objects of a scene as parts of its image, numbered in the order of the list."""

    scene: Scene

    def named(self, words: Sequence[str]) -> list[frozenset[int]]:
        """The objects named by each word together with the preceding words of its phrase: at "red" of "a red
        circle" all red objects, at "circle" the red circles. Empty for words that do not name an object."""
        return [self._fitting(phrase) for phrase in _phrases(words)]

    def asked(self, words: Sequence[str]) -> frozenset[int]:
        """All objects named by the complete phrases of a text."""
        phrases = [*_phrases(words), Description()]
        ends = (phrase for phrase, following in pairwise(phrases) if not _continues(phrase, following))
        return frozenset().union(*map(self._fitting, ends))

    def masks(self, rows: int, columns: int) -> Tensor | None:
        """The patches of each object, bool ``(objects, rows * columns)``; None if the grid is not square."""
        if rows != columns:
            return None
        return torch.stack([region(self.scene, thing, rows) for thing in self.scene.things])

    def _fitting(self, phrase: Description) -> frozenset[int]:
        if phrase == Description():
            return frozenset()
        return frozenset(k for k, thing in enumerate(self.scene.things) if phrase.fits(thing))


def _phrases(words: Sequence[str]) -> Iterator[Description]:
    """For each word, the description by its phrase up to this word; empty if there is none."""
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
    """Whether the next word's description belongs to the same phrase."""
    parts = ("size", "color", "shape")
    return phrase != Description() and all(
        getattr(phrase, part) in (None, getattr(following, part)) for part in parts
    )


def region(scene: Scene, thing: Thing, side: int) -> Tensor:
    """The patches of an object in a ``side`` times ``side`` grid, bool ``(patches,)``."""
    return torch.from_numpy(patch_targets(replace(scene, things=(thing,)), side)[0] > 0)


# ---- of the user's own pictures ---------------------------------------------------------------------------

Word = Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True, pattern=r"^\S+$")]


class Part(Config):
    """A part of an image.

    Args:
        box: x and y of the upper left corner, width and height, in pixels.
        words: words in lower case that name the part; None for all words.
    """

    box: tuple[NonNegativeFloat, NonNegativeFloat, PositiveFloat, PositiveFloat]
    words: Annotated[frozenset[Word], Field(min_length=1)] | None = None

    def mask(self, rows: int, columns: int, size: tuple[int, int]) -> Tensor:
        """The patches of the part in an image of this width and height: those of which it covers at least a
        sixteenth, or else the one of which it covers the most; bool ``(rows * columns,)``."""
        x, y, width, height = self.box
        across = _overlap(x, x + width, size[0], columns)
        covered = (_overlap(y, y + height, size[1], rows)[:, None] * across).flatten()
        return covered >= min(SHARE, float(covered.max()))


def _overlap(low: float, high: float, length: int, count: int) -> Tensor:
    """The fraction of each of ``count`` equal parts of 0..length that is between low and high."""
    width = length / count
    starts = torch.arange(count, dtype=torch.float64) * width
    return (torch.clamp(starts + width, max=high) - torch.clamp(starts, min=low)).clamp(min=0) / width


@dataclass(frozen=True)
class PictureParts:
    """The parts of one image of this width and height."""

    listed: Sequence[Part]
    size: tuple[int, int]

    def named(self, words: Sequence[str]) -> list[frozenset[int]]:
        """The parts named by each word; parts without words belong to every word."""
        return [
            frozenset(
                k for k, part in enumerate(self.listed) if part.words is None or word.lower() in part.words
            )
            for word in words
        ]

    def asked(self, words: Sequence[str]) -> frozenset[int]:
        """The parts named by any word of a question."""
        return frozenset().union(*self.named(words))

    def masks(self, rows: int, columns: int) -> Tensor:
        """The patches of each part, bool ``(parts, rows * columns)``."""
        return torch.stack([part.mask(rows, columns, self.size) for part in self.listed])


class PartsFile(RootModel):
    """A file of ``--regions``: the parts of each image, by the name of its file."""

    root: Annotated[dict[str, Annotated[list[Part], Field(min_length=1)]], Field(min_length=1)]


def read_regions(file: Path, samples: Sequence[Sample]) -> dict[str, PictureParts]:
    """Parts of the user's images, ``{sample's name: parts}``.

    The file contains ``{name of an image file: [parts]}``. A part has a ``box``, in pixels of the upright
    image (as in COCO), and ``words`` that name it (case-insensitive); without ``words``, all words name it.

    Args:
        file: a JSON file.
        samples: the samples; entries for other images are only checked for their format.

    Raises:
        UserError: the file cannot be read, a part has another format, or no image of the file is in the
            samples.
    """
    listed = checked(read_json(file), PartsFile, lambda field: f"{file}", FORMAT).root
    known: dict[str, PictureParts] = {}
    names = [sample.image.name for sample in samples if isinstance(sample.image, Path)]
    for sample in samples:  # by the sample's name: when it is looked at, its picture is open and has no file
        if not isinstance(sample.image, Path) or (name := sample.image.name) not in listed:
            continue
        if names.count(name) > 1:
            raise UserError(f"{file}: {names.count(name)} images are named {name}: rename all but one")
        width, height = size = open_image(sample.image).size
        known[sample.name] = PictureParts(listed[name], size)
        for k, part in enumerate(listed[name]):
            if part.box[0] + part.box[2] > width or part.box[1] + part.box[3] > height:
                raise UserError(
                    f"{file}: {name}.{k}: the box exceeds the image, which has {width} x {height} pixels; "
                    f"{FORMAT}"
                )
    if not known:
        raise UserError(f"{file}: contains none of the images: use names of files of --images or --data")
    return known
