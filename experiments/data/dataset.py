"""What a data set is: its files, its splits, and how they are read.

A data set is one file: subclass :class:`DataSet`, give it one :class:`Reader` for each format that its
annotations come in, and end the file with ``register(MyDataSet())``. ``attngraph data``, the tables
(:mod:`experiments.data.tables`) and the tasks know of a data set only through this.
"""

from __future__ import annotations

import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from attngraph.errors import UserError
from experiments.base.reading import REPLACE
from experiments.data.damaged import Reading
from experiments.data.example import Example

DATA_SETS: dict[str, DataSet] = {}
OFFICIAL = {"train": "train", "validation": "val", "test": "test"}  # what tasks and files call splits
ANNOTATORS = 10  # answers to a question of VQA v2 and VizWiz
WIDTH = 100  # of what `attngraph data layout` prints


@dataclass(frozen=True)
class Counts:
    """What a split holds.

    Args:
        images: pictures.
        records: questions, pairs or captions.
    """

    images: int
    records: int | None = None


class Reader(ABC):
    """Reads the annotations of a data set in one format.

    Attributes:
        name: of the format: ``official``, ``karpathy``, ``blip``, ``p-adapter`` ...
        title: what it is, in a line.
        splits: the splits that it reads, in their official order.
        unanswered: those of them without annotations: for predictions only, their examples have no
            references.
        published: split -> what the publishers say that it holds.
    """

    name: str
    title: str
    splits: tuple[str, ...]
    unanswered: tuple[str, ...] = ()
    published: Mapping[str, Counts] = MappingProxyType({})

    @abstractmethod
    def files(self, root: Path, split: str) -> list[Path]:
        """The annotation files that a split is read from, whether they are there or not."""

    @abstractmethod
    def image_folders(self, root: Path, split: str) -> list[Path]:
        """The folders that hold the split's images."""

    @abstractmethod
    def examples(self, root: Path, split: str, reading: Reading) -> Iterator[Example]:
        """The examples of a split, in the order of its file.

        Records are read by :meth:`experiments.data.damaged.Reading.each`, so that a damaged one is an
        error, or is left out where the list of damaged records names it.

        Raises:
            UserError: a file is missing or damaged as a whole, or one of its records is.
        """

    def found(self, root: Path, split: str) -> bool:
        """Whether the split's annotation files are there."""
        return all(file.is_file() for file in self.files(root, split))


class DataSet(ABC):
    """A data set.

    Attributes:
        name: short, as in ``attngraph data check NAME``; its folder in a folder of data sets.
        title: as printed.
        unit: what a record is, in the plural: ``questions``, ``pairs``, ``captions``.
        readers: one for each format. The first whose files are there reads a split, unless a format is asked
            for; tasks prefer one whose test split has annotations.
        homepage, licence, citation: for ``attngraph data layout``.
        contents: the files and folders that belong into its folder, as (path in there, what it holds, address
            of the file or archive that it comes from).
    """

    name: str
    title: str
    unit: str
    readers: tuple[Reader, ...]
    homepage: str
    licence: str
    citation: str
    contents: tuple[tuple[str, str, str], ...]

    def reader(self, root: Path, split: str, form: str | None = None) -> Reader:
        """The reader of a split.

        Args:
            root: the data set's folder.
            split: the split's official name.
            form: the format's name; None for the first one whose files are there.

        Raises:
            UserError: there is no such format or split, or none of the files are there.
        """
        readers = [reader for reader in self.readers if form in (None, reader.name)]
        if not readers:
            raise UserError(
                f"{self.title} is not read in the format {form!r}: choose from "
                f"{', '.join(reader.name for reader in self.readers)}"
            )
        able = [reader for reader in readers if split in reader.splits]
        if not able:
            known = dict.fromkeys(name for reader in readers for name in reader.splits)
            where = f" in the format {form}" if form else ""
            raise UserError(f"{self.title} has no split {split!r}{where}: choose from {', '.join(known)}")
        for reader in able:
            if reader.found(root, split):
                return reader
        missing = [file for file in able[0].files(root, split) if not file.is_file()]
        raise UserError(
            f"{root}: {', '.join(str(file.relative_to(root)) for file in missing)} missing, which the split "
            f"{split!r} of {self.title} is read from: download them, as `attngraph data layout {self.name}` "
            "says"
        )

    def layout(self) -> str:
        """Files and folders, where they come from, formats, licence and citation, in words."""
        lines = [f"{self.title}, {self.homepage}", "", f"DIR/{self.name}/"]
        for path, about, address in self.contents:
            lines += [f"  {path}", *_wrapped(about, "    "), f"    {address}"]
        lines += [
            "",
            "formats; tasks read the first with all splits, those with an annotated test split first",
        ]
        for reader in self.readers:
            splits = [f"{name}*" if name in reader.unanswered else name for name in reader.splits]
            lines += [f"  {reader.name}: {reader.title}", f"    splits: {', '.join(splits)}"]
        if any(reader.unanswered for reader in self.readers):
            lines += ["  * without annotations, for predictions only"]
        lines += ["", *_wrapped(f"licence: {self.licence}"), "", *_wrapped(f"citation: {self.citation}")]
        return "\n".join(lines) + "\n"


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent or "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def register(data_set: DataSet) -> DataSet:
    """Make a data set known by its name."""
    DATA_SETS[data_set.name] = data_set
    return data_set


def data_set_named(name: str) -> DataSet:
    """The data set of this name.

    Raises:
        UserError: there is none.
    """
    if name not in DATA_SETS:
        raise UserError(f"unknown data set {name!r}: choose from {', '.join(DATA_SETS)}")
    return DATA_SETS[name]


def split_examples(data_set: DataSet, root: Path, split: str, reader: Reader | None = None) -> list[Example]:
    """The examples of a split, read anew; :func:`experiments.data.tables.table` keeps them on disk
    instead.

    Args:
        data_set, root, split: as for :meth:`DataSet.reader`.
        reader: None for the first one whose files are there.

    Raises:
        UserError: see :meth:`Reader.examples`; also if there is no example.
    """
    reader = reader or data_set.reader(root, split)
    reading = Reading(data_set.name, root)
    examples = list(reading.kept(reader.examples(root, split, reading)))
    if not examples:
        raise nothing_in(data_set, reader, root, split)
    return examples


def nothing_in(data_set: DataSet, reader: Reader, root: Path, split: str) -> UserError:
    """The error where a split has no example."""
    return UserError(f"{reader.files(root, split)[0]}: split {split!r} has no {data_set.unit}; {REPLACE}")
