"""Which patches are relevant for the words of a text: those of what a word names, and of what is asked.

What a picture shows where is known of drawn scenes, and told by a file of boxes and masks for others.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, model_validator
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from analysis.contrast import Region
from analysis.maps import patch_grid
from analysis.plots.heterophily import stack
from analysis.relevance import image_nodes
from attngraph import AttentionGraph
from attngraph.errors import UserError
from experiments.base.config import Config
from experiments.base.errors import first_line
from experiments.base.reading import read_text, shown
from experiments.inspect.words import word_spans, words_of
from experiments.models.batch import Batch, Sample
from experiments.models.images import open_image
from experiments.scenes.drawing import patch_targets
from experiments.scenes.facts import Description, plural
from experiments.scenes.scene import HUGE_COLORS, HUGE_SHAPES, SIZES, Scene, Thing

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
        file: parts of pictures of one's own by samples' names; without it, those of drawn scenes.
    """

    def __init__(self, samples: Sequence[Sample], file: Mapping[str, PictureParts] | None = None):
        self.file = file
        self._known = any(self._parts(sample) is not None for sample in samples)
        self._asked = any(self._asked_of(sample) for sample in samples)
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
        if not self._known or words is None or not image.any():
            return {}
        grids = _grids(batch, image)
        if grids is None:
            self._without[stack(name)] = None
            return {}
        candidates = torch.zeros_like(image)
        for nodes, line, (_, _, others) in zip(image, candidates, grids):
            line[nodes.nonzero()[others:, 0]] = True
        relevant = {NAMED: torch.zeros(*words.is_token.shape, image.shape[1], dtype=torch.bool)}
        prompt = None if batch.written is None else batch.written.prompt
        if self._asked and prompt is not None and (batch.decoder is None or graph.causal):
            relevant[ASKED], asking = relevant[NAMED].clone(), words.node(prompt - 1)
        for k, (sample, line) in enumerate(zip(batch.samples, words.lines())):
            parts = self._parts(sample)
            masks = None if parts is None else parts.masks(*grids[k][:2])
            if masks is None:
                continue
            spans = word_spans(*line)
            for (span, _), named in zip(spans, parts.named([word for _, word in spans])):
                if named:
                    shown = masks[sorted(named)].any(0)
                    relevant[NAMED][k, span.start : span.stop, candidates[k]] = shown
            asked = self._asked_of(sample)
            if asked and ASKED in relevant:
                relevant[ASKED][k, asking[k], candidates[k]] = masks[sorted(asked)].any(0)
        self._looked, self._found = True, self._found or bool(relevant[NAMED].any())
        device = graph.query.device
        sizes = [(rows, columns) for rows, columns, _ in grids]
        return {
            kind: Region(mask.to(device), candidates.to(device), sizes) for kind, mask in relevant.items()
        }

    def _asked_of(self, sample: Sample) -> frozenset[int]:
        """The numbers of the parts that a sample's question names."""
        parts = self._parts(sample)
        return frozenset() if parts is None else parts.asked(re.findall(r"\w+", sample.prompt))

    def _parts(self, sample: Sample) -> SceneParts | PictureParts | None:
        if self.file is not None:
            return self.file.get(sample.name)
        return None if sample.scene is None else SceneParts(sample.scene)


def _grids(batch: Batch, image: Tensor) -> list[tuple[int, int, int]] | None:
    """Rows and columns of each picture's patches, and the number of image nodes before them; None where
    unknown."""
    pictures = batch.pictures
    if pictures is None or pictures.grids is None or not pictures.whole or len(image) != len(batch.samples):
        return None
    try:
        return [patch_grid(int(nodes.sum()), grid) for nodes, grid in zip(image, pictures.grids)]
    except ValueError:
        return None


# ---- of drawn scenes --------------------------------------------------------------------------------------


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


def region(scene: Scene, thing: Thing, side: int) -> Tensor:
    """Which of ``side`` times ``side`` patches show an object, bool ``(patches,)``."""
    return torch.from_numpy(patch_targets(replace(scene, things=(thing,)), side)[0] > 0)


# ---- of pictures of one's own -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a picture.

    Args:
        inside: ``(height, width)`` of the picture, 1 inside and 0 outside; or the box.
        size: width and height of the picture.
        words: in lower case, that name the part; None for all words.
    """

    inside: Tensor | tuple[float, float, float, float]
    size: tuple[int, int]
    words: frozenset[str] | None

    def mask(self, rows: int, columns: int) -> Tensor:
        """Which patches show the part: those of which it covers at least a sixteenth, or else the one of
        which it covers most; bool ``(rows * columns,)``."""
        if isinstance(self.inside, Tensor):
            covered = adaptive_avg_pool2d(self.inside[None, None], (rows, columns))[0, 0]
        else:
            x, y, width, height = self.inside
            across = _overlap(x, x + width, self.size[0], columns)
            covered = _overlap(y, y + height, self.size[1], rows)[:, None] * across
        covered = covered.flatten()
        return covered >= min(SHARE, float(covered.max()))


@dataclass(frozen=True, eq=False)
class PictureParts:
    """The parts of one picture."""

    listed: Sequence[Part]

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
        return torch.stack([part.mask(rows, columns) for part in self.listed])


def _overlap(low: float, high: float, length: int, count: int) -> Tensor:
    """The share of each of ``count`` equal parts of 0..length that lies between low and high."""
    width = length / count
    starts = torch.arange(count, dtype=torch.float64) * width
    return (torch.clamp(starts + width, max=high) - torch.clamp(starts, min=low)).clamp(min=0) / width


_Place = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
_Length = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
_Word = Annotated[str, StringConstraints(pattern=r"^\s*\S+\s*$")]


class _Record(Config):
    """A part in the file."""

    box: tuple[_Place, _Place, _Length, _Length] | None = None
    mask: Annotated[str, StringConstraints(pattern=r"\S")] | None = None
    words: Annotated[list[_Word], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> _Record:
        if (self.box is None) == (self.mask is None):
            raise ValueError("a part has either a box or a mask")
        return self

    def part(self, folder: Path, size: tuple[int, int]) -> Part:
        """The part of a picture of this width and height; ValueError where it does not fit."""
        words = None if self.words is None else frozenset(word.strip().lower() for word in self.words)
        if self.box is not None:
            x, y, width, height = self.box
            if x + width > size[0] or y + height > size[1]:
                raise ValueError(f"the box leaves the picture, which has {size[0]} x {size[1]} pixels")
            return Part(self.box, size, words)
        mask = open_image(folder / self.mask)
        if mask.size != size:
            raise ValueError(
                f"{self.mask} has {mask.size[0]} x {mask.size[1]} pixels, the picture {size[0]} x {size[1]}"
            )
        inside = torch.from_numpy(np.asarray(mask).any(-1)).float()
        if not inside.any() or inside.all():
            raise ValueError(f"{self.mask} must be black (not transparent) outside the part, and only there")
        return Part(inside, size, words)


_RECORDS = TypeAdapter(dict[str, Annotated[list[_Record], Field(min_length=1)]])


def read_regions(file: Path, samples: Sequence[Sample]) -> dict[str, PictureParts]:
    """Parts of pictures of one's own, ``{sample's name: parts}``.

    The file holds ``{name of a picture's file: [parts]}``. A part has either a ``box``, x and y of its upper
    left corner, width and height in pixels of the upright picture (as in COCO), or a ``mask``, an image of
    the picture's size that is black outside, its path relative to the file's folder. ``words`` lists the
    words that name the part, whatever their case; without it, all words do.

    Args:
        file: JSON.
        samples: whose pictures are looked at; what the file says of others is checked in its form alone.

    Raises:
        UserError: the file cannot be read, a part is not as above, or no picture of the file is looked at.
    """
    content = read_object("--regions", file, _RECORDS, FORMAT)
    places: dict[str, Path] = {}
    for sample in samples:
        path = sample.image
        if isinstance(path, Path) and places.setdefault(path.name, path) != path:
            raise UserError(
                f"--regions {file}: {places[path.name]} and {path} have one name: rename one of the pictures"
            )
    if not places:
        raise UserError(
            f"--regions {file}: regions belong to pictures in files, and none are looked at: give --images "
            "or --data"
        )
    if not places.keys() & content.keys():
        raise UserError(
            f"--regions {file}: it names none of the pictures that are looked at: give names of their files, "
            f"such as {shown(next(iter(places)))}"
        )
    pictures: dict[str, PictureParts] = {}
    for picture in (picture for picture in content if picture in places):
        try:
            size = open_image(places[picture]).size
        except UserError:
            continue  # it is left out, and told of, when it is looked at
        parts = []
        for k, record in enumerate(content[picture]):
            try:
                parts.append(record.part(file.parent, size))
            except (UserError, ValueError) as error:
                raise UserError(f"--regions {file}: {picture}.{k}: {error}; {FORMAT}") from None
        pictures[picture] = PictureParts(parts)
    return {  # by the sample's name: when it is looked at, its picture is open and has no file
        sample.name: pictures[sample.image.name]
        for sample in samples
        if isinstance(sample.image, Path) and sample.image.name in pictures
    }


def read_object(option: str, file: Path, kind: TypeAdapter, remedy: str) -> Any:
    """What a file with one JSON object says, which must not be empty.

    Args:
        option: that names the file, for errors.
        file: in UTF-8.
        kind: what its content must be.
        remedy: what the user can do about a damaged file.

    Raises:
        UserError: there is no such file, it is no JSON or has a key twice, or its content is of another kind.
    """
    try:
        content = kind.validate_python(json.loads(read_text(file, remedy), object_pairs_hook=_each_once))
    except UserError as error:
        raise UserError(f"{option} {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) or "''" for part in first["loc"] if part != "[key]")
        reason = f"{place}: {first['msg']}".removeprefix(": ")
        reason = " ".join(reason.split())  # a key may have several lines
        raise UserError(f"{option} {file}: {reason}; {remedy}") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{option} {file}: it cannot be read ({first_line(error)}); {remedy}") from None
    if not content:
        raise UserError(f"{option} {file}: it is empty; {remedy}")
    return content


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object's content; ValueError where a key occurs twice."""
    key, number = Counter(key for key, _ in pairs).most_common(1)[0] if pairs else ("", 1)
    if number > 1:
        raise ValueError(f"{shown(key)} occurs twice: leave one of them")
    return dict(pairs)
