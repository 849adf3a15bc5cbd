"""What a data set is: its files, its splits, and how they are read.

A data set is one file: subclass :class:`DataSet`, give it one :class:`Reader` for each format that its
annotations come in, and end the file with ``register(MyDataSet())``. ``attngraph data``, the tables
(:mod:`experiments.datasets.tables`) and the tasks know of a data set only through this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from attngraph.errors import UserError
from experiments.datasets.example import Example
from experiments.datasets.faults import Faults

DATA_SETS: dict[str, DataSet] = {}
OFFICIAL = {"train": "train", "validation": "val", "test": "test"}  # what readers and files call splits


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Args:
        name: of the file.
        url: where it comes from.
        holds: what it unpacks to, relative to the data set's folder.
        size: in bytes, about; None where unknown.
    """

    name: str
    url: str
    holds: tuple[str, ...]
    size: int | None = None


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
    def examples(self, root: Path, split: str, faults: Faults) -> Iterator[Example]:
        """The examples of a split, in the order of its file.

        Each record is read inside ``with faults.leave_out():``, so that a damaged one is an error or is left
        out and counted.

        Raises:
            UserError: a file is missing or damaged as a whole, or too many of its records are.
        """

    def notes(self, root: Path, split: str) -> list[str]:
        """What is no fault, but a user should know of a split: what the official rules leave out of it."""
        return []

    def unscored(self, root: Path, split: str) -> set[str]:
        """Ids of what the official rules leave out of a split; a file of predictions may have them."""
        return set()

    def due(self, root: Path, split: str) -> list[Path]:
        """The files without which the split is not read in this format."""
        return self.files(root, split)

    def found(self, root: Path, split: str) -> bool:
        """Whether the split's annotation files are there."""
        return all(file.is_file() for file in self.due(root, split))


class DataSet(ABC):
    """A data set.

    Attributes:
        name: short, as in ``attngraph data check NAME``; its folder in a folder of data sets.
        title: as printed.
        unit: what a record is, in the plural: ``questions``, ``pairs``, ``captions``.
        readers: one for each format. The first whose files are there reads a split, unless a format is asked
            for; tasks prefer one whose test split has annotations.
        homepage, licence, citation: for ``attngraph data layout``.
        archives: where the files come from.
        tree: the expected files and folders, as (path relative to the data set's folder, what it holds).
    """

    name: str
    title: str
    unit: str
    readers: tuple[Reader, ...]
    homepage: str
    licence: str
    citation: str
    archives: tuple[Archive, ...]
    tree: tuple[tuple[str, str], ...]

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
        readers = [reader for reader in readers if split in reader.splits]
        if not readers:
            read = [reader for reader in self.readers if form in (None, reader.name)]
            known = dict.fromkeys(name for reader in read for name in reader.splits)
            where = f" in the format {form}" if form else ""
            raise UserError(f"{self.title} has no split {split!r}{where}: choose from {', '.join(known)}")
        for reader in readers:
            if reader.found(root, split):
                return reader
        missing = [file for file in readers[0].due(root, split) if not file.is_file()]
        raise UserError(
            f"{root}: {', '.join(str(file.relative_to(root)) for file in missing)} missing, which the split "
            f"{split!r} of {self.title} is read from: download them, as `attngraph data layout {self.name}` "
            "says"
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


def split_examples(
    data_set: DataSet, root: Path, split: str, faults: Faults, form: str | None = None
) -> Sequence[Example]:
    """The examples of a split in a list, read anew; :func:`experiments.datasets.tables.table` keeps them on
    disk instead.

    Raises:
        UserError: see :meth:`Reader.examples`; also if there is no example.
    """
    root = Path(root)
    reader = data_set.reader(root, split, form)
    examples = list(reader.examples(root, split, faults))
    if not examples:
        raise UserError(
            f"{reader.files(root, split)[0]}: split '{split}' has no {data_set.unit}; give the official file"
        )
    return examples
