"""Known parts of pictures of one's own: boxes and masks from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from attngraph.errors import UserError
from experiments.datasets.reading import read_text, shown
from experiments.errors import first_line
from experiments.inspect.labeller import each_key_once
from experiments.models.batch import Sample
from experiments.models.images import open_image

SHARE = 1 / 16  # of a patch that a part must cover to be shown by it, as in drawn scenes
FORMAT = 'give {"picture.jpg": [{"box": [x, y, width, height], "words": ["dog"]}]}'


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


class RegionFile:
    """Parts of pictures, read and checked.

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

    def __init__(self, file: Path, samples: Sequence[Sample]):
        self._file = file
        content, places = self._read(), _places(file, samples)
        pictures: dict[str, PictureParts] = {}
        for picture, records in content.items():
            if not isinstance(records, list) or not records:
                self._refuse(f"{shown(picture)} must have a list of parts, got {shown(records)}: {FORMAT}")
            checked = [self._checked(record, f"{shown(picture)}[{k}]") for k, record in enumerate(records)]
            size = _size(places[picture]) if picture in places else None
            if size is not None:
                parts = [
                    self._part(record, size, f"{shown(picture)}[{k}]") for k, record in enumerate(checked)
                ]
                pictures[picture] = PictureParts(parts)
        if not places.keys() & content.keys():
            have = f", such as {shown(next(iter(places)))}" if places else ""
            self._refuse(
                f"it names none of the pictures that are looked at: give names of their files{have}"
                if places
                else "regions belong to pictures in files, and none are looked at: give --images or --data"
            )
        self._parts_of = {  # by the sample's name: when it is looked at, its picture is open and has no file
            sample.name: pictures[sample.image.name]
            for sample in samples
            if isinstance(sample.image, Path) and sample.image.name in pictures
        }

    def parts(self, sample: Sample) -> PictureParts | None:
        """The parts of a sample's picture; None where the file says nothing of it."""
        return self._parts_of.get(sample.name)

    def _read(self) -> dict[str, object]:
        try:
            text = read_text(self._file, "give a JSON file with boxes or masks")
        except UserError as error:
            raise UserError(f"--regions {error}") from None
        try:
            content = json.loads(text, object_pairs_hook=each_key_once)
        except (RecursionError, ValueError) as error:
            self._refuse(f"it cannot be read ({first_line(error)}): {FORMAT}")
        if not isinstance(content, dict) or not content:
            self._refuse(f"it must hold one JSON object with at least one picture: {FORMAT}")
        return content

    def _checked(self, record: object, where: str) -> Mapping[str, object]:
        if not isinstance(record, dict):
            self._refuse(f"{where} must be an object, got {shown(record)}: {FORMAT}")
        if unknown := sorted(record.keys() - {"box", "mask", "words"}):
            self._refuse(f"{where} has the unknown field {shown(unknown[0])}: give box or mask, and words")
        if ("box" in record) == ("mask" in record):
            self._refuse(f"{where} must have either the field 'box' or 'mask': {FORMAT}")
        box, words, mask = (record.get(name) for name in ("box", "words", "mask"))
        if "box" in record:
            numbers = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
            if not numbers or min(box[:2]) < 0 or min(box[2:]) <= 0:
                self._refuse(
                    f"field 'box' of {where} is {shown(box)}: give [x, y, width, height] in pixels, x and y "
                    "at least 0, width and height above 0"
                )
        elif not isinstance(mask, str) or not mask.strip():
            self._refuse(f"field 'mask' of {where} is {shown(mask)}: give the path of an image")
        if "words" in record:
            are_words = isinstance(words, list) and words and all(isinstance(word, str) for word in words)
            if not are_words or any(len(word.split()) != 1 for word in words):
                self._refuse(f"field 'words' of {where} is {shown(words)}: give a list of single words")
        return record

    def _part(self, record: Mapping[str, object], size: tuple[int, int], where: str) -> Part:
        words = record.get("words")
        words = None if words is None else frozenset(word.strip().lower() for word in words)
        if "box" in record:
            x, y, width, height = record["box"]
            if x + width > size[0] or y + height > size[1]:
                self._refuse(
                    f"field 'box' of {where} leaves the picture, which has {size[0]} x {size[1]} pixels: "
                    "give [x, y, width, height]"
                )
            return Part((x, y, width, height), size, words)
        path = self._file.parent / record["mask"]
        try:
            mask = open_image(path)
        except UserError as error:
            self._refuse(f"field 'mask' of {where}: {error}")
        if mask.size != size:
            self._refuse(
                f"field 'mask' of {where}: {path} has {mask.size[0]} x {mask.size[1]} pixels and the picture "
                f"{size[0]} x {size[1]}: give a mask of the picture's size"
            )
        inside = torch.from_numpy(np.asarray(mask).any(-1)).float()
        if not inside.any():
            self._refuse(f"field 'mask' of {where}: {path} is black everywhere: leave this part out")
        if inside.all():
            self._refuse(
                f"field 'mask' of {where}: {path} is black nowhere: give a mask that is black, not "
                "transparent, outside the part"
            )
        return Part(inside, size, words)

    def _refuse(self, fault: str) -> NoReturn:
        raise UserError(f"--regions {self._file}: {fault}")


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and isfinite(value)


def _places(file: Path, samples: Sequence[Sample]) -> dict[str, Path]:
    """``{name: path}`` of the samples' pictures that are files.

    Raises:
        UserError: two of them share a name.
    """
    places: dict[str, Path] = {}
    for sample in samples:
        if (
            isinstance(sample.image, Path)
            and places.setdefault(sample.image.name, sample.image) != sample.image
        ):
            raise UserError(
                f"--regions {file}: {places[sample.image.name]} and {sample.image} have one name: rename "
                "one of the pictures"
            )
    return places


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height of a picture; None where it cannot be read, which is said where it is looked at."""
    try:
        return open_image(path).size
    except UserError:
        return None


def _overlap(low: float, high: float, length: int, count: int) -> Tensor:
    """The share of each of ``count`` equal parts of 0..length that lies between low and high."""
    width = length / count
    starts = torch.arange(count, dtype=torch.float64) * width
    return (torch.clamp(starts + width, max=high) - torch.clamp(starts, min=low)).clamp(min=0) / width
