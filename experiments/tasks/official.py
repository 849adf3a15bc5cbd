"""Common base of tasks on official files: their splits in terms of the official splits, and reading.

A folder of data has a subfolder for each dataset, under its name (``vqa2``, ``coco`` ...), in the layout of
the official archives (``attngraph data layout NAME``).

A single rule defines a task's splits. If the official test split has annotations, train, validation and test
are the official train, val and test. Otherwise test is the official val split, as in papers that report
scores without the evaluation server; validation is one in :data:`HELD_OUT` official training *images* with
all of their records, chosen by a hash of the image's name, and train is the remaining ones. So choices on
validation data never use test data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from attngraph.errors import UserError
from attngraph.experiments.data.dataset import DATA_SETS, OFFICIAL, DataSet, Reader
from attngraph.experiments.data.drawn import holds_scenes
from attngraph.experiments.data.example import Example
from attngraph.experiments.data.tables import Examples, table
from attngraph.experiments.tasks.task import SPLITS, Task

HELD_OUT = 20


@dataclass(frozen=True)
class Part:
    """Source of a task's split.

    Args:
        reader: reader of the format.
        split: the official split.
        held_out: whether the images held out of that split are used, or the others; None for all.
    """

    reader: Reader
    split: str
    held_out: bool | None = None

    def __str__(self) -> str:
        which = {
            None: "",
            True: f", one in {HELD_OUT} images",
            False: f", all but one in {HELD_OUT} images",
        }
        return f"{self.split}{which[self.held_out]} (format {self.reader.name})"


class Official(Task):
    """Mixin that reads a dataset in official files; the task defines prompts and scoring."""

    data_set: str

    @property
    def _set(self) -> DataSet:
        return DATA_SETS[self.data_set]

    def part(self, data: Path, split: str) -> Part:
        """Source of a split in these data: in the first format whose files exist.

        Raises:
            UserError: files are missing.
        """
        root = data / self.data_set
        parts = [parts[split] for reader in self._set.readers if (parts := _parts(reader))]
        for part in parts:
            if part.reader.found(root, part.split):
                return part
        self._set.reader(root, parts[0].split, parts[0].reader.name)  # says what is missing

    def table(self, data: Path, split: str) -> tuple[Part, Examples]:
        """Source of a split, and the table of the complete official split."""
        part = self.part(data, split)
        return part, table(self._set, data / self.data_set, part.split, part.reader.name)

    def found(self, data: Path) -> bool:
        return (data / self.data_set).is_dir() and not holds_scenes(data)

    def check(self, data: Path | None) -> None:
        if data is None:
            raise UserError(
                f"{self.name} reads official files: use the folder that contains {self.data_set} with --data "
                "FOLDER"
            )
        root = data / self.data_set
        if not root.is_dir():
            raise UserError(
                f"{root}: no such folder, which {self.name} needs: see `attngraph data layout "
                f"{self.data_set}`"
            )
        reader = self.part(data, "test").reader
        for part in _parts(reader).values():
            self._set.reader(root, part.split, reader.name)

    def examples(self, data: Path, split: str) -> Sequence[Example]:
        part, whole = self.table(data, split)
        if part.held_out is None:
            return whole
        places = np.flatnonzero(_held_out(whole) == part.held_out)
        if not len(places):
            raise UserError(
                f"{data / self.data_set}: too few images in the split {part.split!r} to hold out one in "
                f"{HELD_OUT} for validation: use the official files"
            )
        return whole.take(places)

    def asked(self, data: Path, split: str, form: str | None = None) -> Sequence[Example]:
        return table(self._set, data / self.data_set, split, form)

    def content(self, data: Path, split: str) -> Any:
        """Digests of the tables of the splits (ids, prompts, references and names of images, but not the
        content of images), and the numbers of damaged records that they lack.
        """
        found: dict[str, Any] = {"data set": self.data_set}
        for name in dict.fromkeys(("train", split)):
            part, whole = self.table(data, name)
            found[name] = {"format": part.reader.name, "split": part.split, "digest": whole.about.digest}
            if part.held_out is not None:
                found[name]["held out"] = part.held_out
            if whole.about.left_out:
                found[name]["left out"] = whole.about.left_out
        return found

    def unscored(self, data: Path, split: str) -> set[str]:
        return set(self.table(data, split)[1].about.unscored)

    def source(self, data: Path, split: str) -> str:
        """Source of the split, and the number of damaged records that it lacks."""
        part, whole = self.table(data, split)
        count = whole.about.left_out
        return f"{part}; {count:,} damaged record{'s' * (count > 1)} skipped" if count else str(part)


def held_out_hash(name: str) -> int:
    """A hash of an image's file name; multiples of :data:`HELD_OUT` are held out."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])


def _held_out(whole: Examples) -> np.ndarray:
    """For each row, whether its image is held out; with very few images, the one with the smallest hash."""
    images = pc.dictionary_encode(whole.rows["image"]).combine_chunks()
    hashes = np.array([held_out_hash(Path(path).name) for path in images.dictionary.to_pylist()], np.uint64)
    held = hashes % HELD_OUT == 0
    if not held.any() and len(held) > 1:
        held[hashes.argmin()] = True
    return held[images.indices.to_numpy()]


def _parts(reader: Reader) -> dict[str, Part]:
    """A task's split -> its source in a format; empty if the format does not have these splits."""
    annotated = set(reader.splits) - set(reader.unanswered)
    if not {"train", "val"} <= annotated:
        return {}
    if "test" in annotated:
        return {split: Part(reader, OFFICIAL[split]) for split in SPLITS}
    parts = (Part(reader, "train", False), Part(reader, "train", True), Part(reader, "val"))
    return dict(zip(SPLITS, parts))
