"""Definition of a dataset: its files, its splits, and the conversion of records to examples.

A dataset is a :class:`DataSet` with one :class:`Reader` for each format of its annotations, made known by
``register``. ``attngraph data``, the tables (:mod:`attngraph.experiments.data.tables`) and the tasks access a
dataset only through this interface.

A damaged record is an error, unless it is in the list ``damaged.json`` in the dataset's folder. ``attngraph
data check NAME --root FOLDER --leave-out`` writes the list, an object ``{name: fault}``. Skipped entries are
records of a file (``dataset_coco.json: images[17]``), or images together with all records that refer to them
(``val2014/COCO_val2014_000000000042.jpg``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern
from types import MappingProxyType
from typing import Any, TypeVar

import yaml

from attngraph.errors import UserError
from attngraph.experiments.base.files import write_json
from attngraph.experiments.base.messages import check_known
from attngraph.experiments.base.progress import note
from attngraph.experiments.base.reading import REPLACE, Damaged, Pictures, Record, Unique, read_json
from attngraph.experiments.data.example import Example
from attngraph.names import spelled

DATA_SETS: dict[str, DataSet] = {}
OFFICIAL = {"train": "train", "validation": "val", "test": "test"}  # what tasks and files call splits
ANNOTATORS = 10  # answers to a question of VQA v2 and VizWiz
LIST = "damaged.json"
ABOUT = Path(__file__).with_name("data_sets.yaml")
_IN = ": "  # between a file and the record's place in it

Made = TypeVar("Made")


@dataclass(frozen=True)
class Fields:
    """Names of the fields of a record.

    Args:
        id: a number or text, unique for each record.
        references: a text, a list of texts, or a list of objects with a text each.
        item: the field with the text, if references are objects.
        annotators: required number of references of each record, whose texts are not changed and may be
            empty. None for captions and labels.
        prompt: the question or hypothesis; None for captions.
        kind: kind of examples whose record does not have one.
        kinds: the field with the kind of each record, if there is one.
        groups: name of a break-down -> its field.
        identity: maps a record's id to that of the example.
    """

    id: str
    references: str
    item: str | None = None
    annotators: int | None = None
    prompt: str | None = None
    kind: str = "caption"
    kinds: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    identity: Callable[[str], str] = str

    def annotation(self, record: Record) -> dict[str, Any]:
        """Annotation of an example from a record: its references, kind and groups."""
        found = record.field(self.references, str, list)
        if isinstance(found, str):
            references = (record.text(self.references).strip(),)
        elif self.annotators is None:
            references = record.captions(self.references, self.item)
        else:  # many questions have the same answers
            references = tuple(map(intern, record.texts(self.references, self.item, self.annotators)))
        kind = _said(record, self.kinds) or self.kind
        groups = {name: said for name, at in self.groups.items() if (said := _said(record, at))}
        return {"references": references, "kind": kind, "groups": groups}

    def example(self, record: Record, image: Path, annotation: Mapping[str, Any] | None) -> Example:
        """The example of a record with id and prompt; without references if there is no annotation."""
        identity = self.identity(str(record.field(self.id, str, int)))
        prompt = "" if self.prompt is None else record.text(self.prompt)
        return Example(identity, image, prompt, **(annotation or {"references": (), "kind": self.kind}))


def _said(record: Record, name: str | None) -> str:
    """A field that may be missing."""
    if name is None or record.content.get(name) is None:
        return ""
    return intern(str(record.field(name, str, int)))


@dataclass(frozen=True)
class Counts:
    """Size of a split.

    Args:
        images: number of images.
        records: number of questions, pairs or captions.
    """

    images: int
    records: int | None = None


class Reader(ABC):
    """Reads the annotations of a dataset in one format.

    Attributes:
        name: name of the format: ``official``, ``karpathy`` or ``hub``.
        title: short description of the format.
        splits: the splits that it reads, in their official order.
        unanswered: splits without annotations, for predictions only: their examples have no references.
        published: split -> its published size.
    """

    name: str = "official"
    title: str
    splits: tuple[str, ...] = ("train", "val", "test")
    unanswered: tuple[str, ...] = ()
    published: Mapping[str, Counts] = MappingProxyType({})

    @abstractmethod
    def files(self, root: Path, split: str) -> list[Path]:
        """The annotation files of a split, which need not exist."""

    @abstractmethod
    def examples(self, split: str, reading: Reading) -> Iterator[Example]:
        """The examples of a split in the folder of ``reading``, in the order of its file; records are read by
        :meth:`Reading.each`.

        Raises:
            UserError: a file is missing or damaged, or one of its records is damaged.
        """

    def found(self, root: Path, split: str) -> bool:
        """Whether the split's annotation files exist."""
        return all(file.is_file() for file in self.files(root, split))


@dataclass(frozen=True)
class DataSet:
    """A dataset.

    Args:
        name: short name, as in ``attngraph data check NAME``; also its folder in a folder of datasets.
        title: name in printed output.
        unit: word for its records, in the plural: ``questions``, ``pairs``, ``captions``.
        readers: one for each format. Unless a format is given, a split is read by the first one whose files
            exist.
    """

    name: str
    title: str
    unit: str
    readers: tuple[Reader, ...]

    def reader(self, root: Path, split: str, form: str | None = None) -> Reader:
        """The reader of a split (official name): that of the format, or the first one whose files exist.

        Raises:
            UserError: there is no such format or split, or none of the files exist.
        """
        if form is not None:
            check_known([form], [reader.name for reader in self.readers], f"format of {self.title}")
        readers = [reader for reader in self.readers if form in (None, reader.name)]
        known = dict.fromkeys(name for reader in readers for name in reader.splits)
        check_known([split], list(known), f"split of {self.title}")
        able = [reader for reader in readers if split in reader.splits]
        for reader in able:
            if reader.found(root, split):
                return reader
        missing = [file for file in able[0].files(root, split) if not file.is_file()]
        raise UserError(
            f"{root}: {', '.join(str(file.relative_to(root)) for file in missing)} missing, required for the "
            f"split {split!r} of {self.title}: download them, as `attngraph data layout {self.name}` "
            "says"
        )

    def layout(self) -> str:
        """Description of files and folders, their sources, formats, licence and citation."""
        about = yaml.safe_load(ABOUT.read_text(encoding="utf-8"))[self.name]
        lines = ["formats; a split is read in the first one whose files exist"]
        for reader in self.readers:
            splits = [f"{name}*" if name in reader.unanswered else name for name in reader.splits]
            lines += [f"  {reader.name}: {reader.title}", f"    splits: {', '.join(splits)}"]
        if any(reader.unanswered for reader in self.readers):
            lines += ["  * without annotations, for predictions only"]
        formats = "\n".join(lines)
        head = f"{self.title}, {about['page']}\n\nDIR/{self.name}/"
        return f"{head}\n{about['files']}\n{formats}\n\n{about['rights']}"


def register(data_set: DataSet) -> DataSet:
    """Make a dataset known by its name."""
    DATA_SETS[data_set.name] = data_set
    return data_set


def data_set_named(name: str) -> DataSet:
    """The dataset of this name, in any spelling; a :class:`~attngraph.UserError` if there is none."""
    name = spelled(name, DATA_SETS)
    check_known([name], list(DATA_SETS), "dataset")
    return DATA_SETS[name]


def split_examples(data_set: DataSet, root: Path, split: str, reader: Reader | None = None) -> list[Example]:
    """The examples of a split, read from the annotation files;
    :func:`attngraph.experiments.data.tables.table` caches them on disk instead.

    Raises:
        UserError: see :meth:`Reader.examples`; also if there is no example.
    """
    return list(Reading(data_set, root).examples(reader or data_set.reader(root, split), split))


# ---- damaged records --------------------------------------------------------------------------------------


class Reading:
    """One pass over the files of a dataset, with its skipped and damaged records.

    Args:
        data_set: the dataset.
        root: its folder.
        collects: whether faults are collected, including those listed in ``damaged.json`` in the folder; if
            not, listed entries are skipped, and the first other fault is an error.

    Attributes:
        pictures: the images of the folder.
        faults: damaged record or image -> error message.
        left_out: number of skipped records and examples.
        lost: ids of examples that are skipped, or lack a skipped record, if known.
        unscored: ids of records excluded from the split by the official rules; files of predictions may have
            them.
    """

    def __init__(self, data_set: DataSet, root: Path, collects: bool = False):
        self.data_set, self.root, self.collects = data_set, root, collects
        self.pictures = Pictures(root)
        self.listed = {} if collects else read_list(root)
        self.faults: dict[str, str] = {}
        self.left_out = 0
        self.lost: set[str] = set()
        self.unscored: set[str] = set()

    def examples(self, reader: Reader, split: str) -> Iterator[Example]:
        """The examples of a split whose images are not skipped.

        Raises:
            UserError: as raised by the reader; or there is no example.
        """
        is_empty = True
        for example in reader.examples(split, self):
            if self.listed and self._path(example.image) in self.listed:
                self.left_out += 1
                self.lost.add(example.id)
            else:
                is_empty = False
                yield example
        if is_empty and not self.faults:
            file = reader.files(self.root, split)[0]
            raise UserError(f"{file}: split {split!r} has no {self.data_set.unit}; {REPLACE}")

    def each(
        self,
        file: Path,
        found: Iterable[tuple[str, Any]],
        make: Callable[[Record], Made | None],
        key: str,
        example: str | None = None,
    ) -> Iterator[Made]:
        """The results of ``make`` for each record that is not skipped.

        Args:
            file, found: the file; positions and contents of its records.
            make: converts a record, or returns None to ignore it.
            key: the field whose values must be unique.
            example: the field with the example's id; the same by default.

        Raises:
            Damaged: as raised by ``make``, if faults are not collected.
        """
        keys = Unique(file, key)
        for where, content in found:
            what = f"{self._path(file)}{_IN}{where}"
            try:
                if what in self.listed:
                    self.left_out += 1
                elif (made := make(Record(content, file, where))) is None:
                    continue
                else:
                    keys.add(content[key], where)
                    yield made
                    continue
            except Damaged as error:
                if not self.collects:
                    raise Damaged(
                        f"{error}; or skip it: `attngraph data check {self.data_set.name} --root "
                        f"{self.root} --leave-out` lists all damaged records"
                    ) from None
                self.faults[what] = str(error)
            if isinstance(content, dict) and isinstance(content.get(example or key), (int, str)):
                self.lost.add(str(content[example or key]))

    def picture_fault(self, image: Path, fault: str) -> None:
        """Record a damaged image."""
        self.faults[self._path(image)] = f"{image}: {fault}"

    def _path(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix() if file.is_relative_to(self.root) else str(file)


def is_picture(what: str) -> bool:
    """Whether an entry of the list is an image, which only ``--deep`` checks, and not a record."""
    return _IN not in what


def read_list(root: Path) -> dict[str, str]:
    """The content of the list in a dataset's folder; empty if there is no list.

    Raises:
        UserError: the list is damaged.
    """
    file = root / LIST
    content = read_json(file) if file.exists() else {}
    if not isinstance(content, dict) or not all(isinstance(why, str) for why in content.values()):
        raise UserError(
            f"{file}: is not a list of damaged records, {{name: fault}}; remove it, or write it again with "
            "`attngraph data check NAME --root FOLDER --leave-out`"
        )
    return content


def write_list(root: Path, damaged: Mapping[str, str]) -> None:
    """Write the list of entries to skip; removes the file if nothing is damaged."""
    file = root / LIST
    if damaged:
        write_json(file, damaged, ensure_ascii=False)
        note(f"{file}: list of {len(damaged):,} damaged records, which are skipped from now on")
    elif file.exists():
        file.unlink()
        note(f"{file}: removed, as nothing is damaged")
