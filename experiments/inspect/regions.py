"""Which patches are relevant for the words of a text: those of what a word names, and of what is asked.

What a picture shows where is known of drawn scenes; for other pictures a file of boxes says it.
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
    "no regions: which part of the picture each node shows is not known (it is cropped or tiled, or its "
    "patches are no grid)"
)
NO_WORD = "no regions: no word of the texts names a known part of its picture"

SHAPE_NAMES = {word: shape for shape in HUGE_SHAPES for word in (shape, plural(shape))}
_ATTRIBUTES = {
    **{word: ("shape", shape) for word, shape in SHAPE_NAMES.items()},
    **{color: ("color", color) for color in HUGE_COLORS},
    **{size: ("size", size) for size in (*SIZES, "huge")},
}
_ANY_SHAPE = {word for noun in ("thing", "object", "item", "shape") for word in (noun, plural(noun))}

SHARE = 1 / 16  # of a patch that a part must cover to be shown by it, as in drawn scenes
FORMAT = 'give {"picture.jpg": [{"box": [x, y, width, height], "words": ["dog"]}]}'


# ---- of a graph -------------------------------------------------------------------------------------------


class Regions:
    """The relevant values of a batch's graphs, where queries are words and values are patches.

    Args:
        samples: all that are looked at.
        file: parts of the user's own pictures by samples' names; without it, those of drawn scenes.
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
        """A line for each stack of layers that has no regions though words look at pictures there, and one if
        no word named a known part.
        """
        nothing = [NO_WORD] if self._looked and not self._found else []
        return [*(f"{name}: {NO_GRID}" for name in self._without), *nothing]

    def __call__(self, batch: Batch, name: str, graph: AttentionGraph) -> dict[str, Region]:
        """Regions of a graph.

        Returns:
            ``{name: region}``: "named region", where a word that names something looks for its patches, and,
            with questions that name something, "asked region", where the token that the answer's first one
            is predicted from looks for those of all that the question names. Empty where queries are no
            words, values no patches, or no parts are known.
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
    """The things of a scene as parts of its picture, numbered as they are listed."""

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


def region(scene: Scene, thing: Thing, side: int) -> Tensor:
    """Which of ``side`` times ``side`` patches show an object, bool ``(patches,)``."""
    return torch.from_numpy(patch_targets(replace(scene, things=(thing,)), side)[0] > 0)


# ---- of the user's own pictures ---------------------------------------------------------------------------

Word = Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True, pattern=r"^\S+$")]


class Part(Config):
    """A part of a picture.

    Args:
        box: x and y of the upper left corner, width and height, in pixels.
        words: in lower case, that name the part; None for all words.
    """

    box: tuple[NonNegativeFloat, NonNegativeFloat, PositiveFloat, PositiveFloat]
    words: Annotated[frozenset[Word], Field(min_length=1)] | None = None

    def mask(self, rows: int, columns: int, size: tuple[int, int]) -> Tensor:
        """Which patches of a picture of this width and height show the part: those of which it covers at
        least a sixteenth, or else the one of which it covers most; bool ``(rows * columns,)``."""
        x, y, width, height = self.box
        across = _overlap(x, x + width, size[0], columns)
        covered = (_overlap(y, y + height, size[1], rows)[:, None] * across).flatten()
        return covered >= min(SHARE, float(covered.max()))


def _overlap(low: float, high: float, length: int, count: int) -> Tensor:
    """The share of each of ``count`` equal parts of 0..length that lies between low and high."""
    width = length / count
    starts = torch.arange(count, dtype=torch.float64) * width
    return (torch.clamp(starts + width, max=high) - torch.clamp(starts, min=low)).clamp(min=0) / width


@dataclass(frozen=True)
class PictureParts:
    """The parts of one picture of this width and height."""

    listed: Sequence[Part]
    size: tuple[int, int]

    def named(self, words: Sequence[str]) -> list[frozenset[int]]:
        """The parts that each word names; those without words belong to every word."""
        return [
            frozenset(
                k for k, part in enumerate(self.listed) if part.words is None or word.lower() in part.words
            )
            for word in words
        ]

    def asked(self, words: Sequence[str]) -> frozenset[int]:
        """The parts that any word of a question names."""
        return frozenset().union(*self.named(words))

    def masks(self, rows: int, columns: int) -> Tensor:
        """Which patches show each part, bool ``(parts, rows * columns)``."""
        return torch.stack([part.mask(rows, columns, self.size) for part in self.listed])


class PartsFile(RootModel):
    """A file of ``--regions``: the parts of each picture, by the name of its file."""

    root: Annotated[dict[str, Annotated[list[Part], Field(min_length=1)]], Field(min_length=1)]


def read_regions(file: Path, samples: Sequence[Sample]) -> dict[str, PictureParts]:
    """Parts of the user's own pictures, ``{sample's name: parts}``.

    The file holds ``{name of a picture's file: [parts]}``. A part has a ``box``, in pixels of the upright
    picture (as in COCO), and ``words`` that name it, whatever their case; without them, all words do.

    Args:
        file: JSON.
        samples: whose pictures are looked at; what the file says of others is checked in its form alone.

    Raises:
        UserError: the file cannot be read, a part is not as above, or no picture of the file is looked at.
    """
    listed = checked(read_json(file), PartsFile, lambda field: f"{file}", FORMAT).root
    known: dict[str, PictureParts] = {}
    names = [sample.image.name for sample in samples if isinstance(sample.image, Path)]
    for sample in samples:  # by the sample's name: when it is looked at, its picture is open and has no file
        if not isinstance(sample.image, Path) or (name := sample.image.name) not in listed:
            continue
        if names.count(name) > 1:
            raise UserError(f"{file}: {names.count(name)} pictures are called {name}: rename all but one")
        width, height = size = open_image(sample.image).size
        known[sample.name] = PictureParts(listed[name], size)
        for k, part in enumerate(listed[name]):
            if part.box[0] + part.box[2] > width or part.box[1] + part.box[3] > height:
                raise UserError(
                    f"{file}: {name}.{k}: the box leaves the picture, which has {width} x {height} pixels; "
                    f"{FORMAT}"
                )
    if not known:
        raise UserError(
            f"{file}: it names none of the pictures that are looked at: give names of files of --images or "
            "--data"
        )
    return known
