"""What the tasks on official files share: which official splits they are made of, and how they are read.

A folder of data holds one folder for each data set, under its name (``vqa2``, ``coco`` ...), laid out as the
official archives unpack (``attngraph data layout NAME``).

A task's splits are made of the official ones by one rule. Where the official test split has annotations,
train, validation and test are the official train, val and test. Where it has none, test is the official val
split, as in papers that report scores without the evaluation server; validation is one in :data:`HELD_OUT` of
the official training *pictures* with all that is said about them, chosen by a hash of the picture's name, and
train is the others. So nothing that is chosen on validation data has seen test data.
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
from attngraph.experiments.data.example import Example
from attngraph.experiments.data.tables import Examples, table
from attngraph.experiments.tasks.task import SPLITS, Task, holds_scenes

HELD_OUT = 20


@dataclass(frozen=True)
class Part:
    """What a task's split is made of.

    Args:
        reader: of which format.
        split: official one.
        held_out: whether it is the pictures that are held out of that split, or the others; None for all.
    """

    reader: Reader
    split: str
    held_out: bool | None = None

    def __str__(self) -> str:
        which = {
            None: "",
            True: f", one in {HELD_OUT} pictures",
            False: f", all but one in {HELD_OUT} pictures",
        }
        return f"{self.split}{which[self.held_out]} (format {self.reader.name})"


class Official(Task):
    """Reads a data set in official files; mixed into a task that says how it is prompted and scored."""

    data_set: str

    @property
    def _set(self) -> DataSet:
        return DATA_SETS[self.data_set]

    def part(self, data: Path, split: str) -> Part:
        """What a split is made of in these data: in the first format whose files are there.

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
        """What a split is made of, and all of the official split that it is taken from."""
        part = self.part(data, split)
        return part, table(self._set, data / self.data_set, part.split, part.reader.name)

    def found(self, data: Path) -> bool:
        return (data / self.data_set).is_dir() and not holds_scenes(data)

    def check(self, data: Path | None) -> None:
        if data is None:
            raise UserError(
                f"{self.name} reads official files: give the folder that holds {self.data_set} with --data "
                "FOLDER"
            )
        root = data / self.data_set
        if not root.is_dir():
            raise UserError(
                f"{root}: no such folder, which {self.name} reads: `attngraph data layout {self.data_set}` "
                "says what belongs there"
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
                f"{data / self.data_set}: too few pictures in the split {part.split!r} to hold one out of "
                f"{HELD_OUT} for validation: give the official files"
            )
        return whole.take(places)

    def asked(self, data: Path, split: str, form: str | None = None) -> Sequence[Example]:
        return table(self._set, data / self.data_set, split, form)

    def content(self, data: Path, split: str) -> Any:
        """The digests of the tables that the splits are taken from: of ids, prompts, references and names of
        pictures, not of what the pictures show; and how many damaged records they lack.
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
        """What the split is made of, and how many damaged records it lacks."""
        part, whole = self.table(data, split)
        count = whole.about.left_out
        return f"{part}; {count:,} damaged record{'s' * (count > 1)} left out" if count else str(part)


def held_out_hash(name: str) -> int:
    """The number of a picture's file name that decides: multiples of :data:`HELD_OUT` are held out."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])


def _held_out(whole: Examples) -> np.ndarray:
    """For each row, whether its picture is held out: of very few pictures the one with the smallest hash."""
    images = pc.dictionary_encode(whole.rows["image"]).combine_chunks()
    hashes = np.array([held_out_hash(Path(path).name) for path in images.dictionary.to_pylist()], np.uint64)
    held = hashes % HELD_OUT == 0
    if not held.any() and len(held) > 1:
        held[hashes.argmin()] = True
    return held[images.indices.to_numpy()]


def _parts(reader: Reader) -> dict[str, Part]:
    """A task's split -> what it is made of in a format; empty if the format has no such splits."""
    annotated = set(reader.splits) - set(reader.unanswered)
    if not {"train", "val"} <= annotated:
        return {}
    if "test" in annotated:
        return {split: Part(reader, OFFICIAL[split]) for split in SPLITS}
    parts = (Part(reader, "train", False), Part(reader, "train", True), Part(reader, "val"))
    return dict(zip(SPLITS, parts))
