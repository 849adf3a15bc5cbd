"""What a data set is: its files, its splits, and how their records become examples.

A data set is a :class:`DataSet` with one :class:`Reader` for each format that its annotations come in, made
known by ``register``. ``attngraph data``, the tables (:mod:`attngraph.experiments.data.tables`) and the tasks
know of a data set only through this.

A damaged record is an error, unless the list ``damaged.json`` in the data set's folder names it.
``attngraph data check NAME --root FOLDER --leave-out`` writes the list, an object ``{what: why}``. What is
left out is a record of a file (``dataset_coco.json: images[17]``), or a picture with all that is about it
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
    """Which field of a record holds what.

    Args:
        id: a number or text that no two records share.
        references: a text, a list of texts, or a list of objects with a text each.
        item: the field that holds the text, where references are objects.
        annotators: how many references each record must have; their answers are left as they are, and may be
            empty. None for captions and labels.
        prompt: the question or hypothesis; None for captions.
        kind: of examples whose record does not say one.
        kinds: the field with the kind of each, where there is one.
        groups: name of a break-down -> its field.
        identity: from the id to the example's.
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
        """What a record says about an example's answer: its references, kind and groups."""
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
        """The example of a record with id and prompt; without annotation, one without references."""
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
        name: of the format: ``official``, ``karpathy`` or ``hub``.
        title: what it is, in a line.
        splits: the splits that it reads, in their official order.
        unanswered: those of them without annotations: for predictions only, their examples have no
            references.
        published: split -> what the publishers say that it holds.
    """

    name: str = "official"
    title: str
    splits: tuple[str, ...] = ("train", "val", "test")
    unanswered: tuple[str, ...] = ()
    published: Mapping[str, Counts] = MappingProxyType({})

    @abstractmethod
    def files(self, root: Path, split: str) -> list[Path]:
        """The annotation files that a split is read from, whether they exist or not."""

    @abstractmethod
    def examples(self, split: str, reading: Reading) -> Iterator[Example]:
        """The examples of a split in the folder of a reading, in the order of its file; records are read by
        :meth:`Reading.each`.

        Raises:
            UserError: a file is missing or damaged as a whole, or one of its records is.
        """

    def found(self, root: Path, split: str) -> bool:
        """Whether the split's annotation files exist."""
        return all(file.is_file() for file in self.files(root, split))


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Args:
        name: short, as in ``attngraph data check NAME``; its folder in a folder of data sets.
        title: as printed.
        unit: what a record is, in the plural: ``questions``, ``pairs``, ``captions``.
        readers: one for each format. The first whose files exist reads a split, unless a format is asked
            for.
    """

    name: str
    title: str
    unit: str
    readers: tuple[Reader, ...]

    def reader(self, root: Path, split: str, form: str | None = None) -> Reader:
        """The reader of a split by its official name: of a format, or the first one whose files exist.

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
            f"{root}: {', '.join(str(file.relative_to(root)) for file in missing)} missing, which the split "
            f"{split!r} of {self.title} is read from: download them, as `attngraph data layout {self.name}` "
            "says"
        )

    def layout(self) -> str:
        """Files and folders, where they come from, formats, licence and citation, in words."""
        about = yaml.safe_load(ABOUT.read_text(encoding="utf-8"))[self.name]
        lines = ["formats; a split is read in the first whose files are there"]
        for reader in self.readers:
            splits = [f"{name}*" if name in reader.unanswered else name for name in reader.splits]
            lines += [f"  {reader.name}: {reader.title}", f"    splits: {', '.join(splits)}"]
        if any(reader.unanswered for reader in self.readers):
            lines += ["  * without annotations, for predictions only"]
        formats = "\n".join(lines)
        head = f"{self.title}, {about['page']}\n\nDIR/{self.name}/"
        return f"{head}\n{about['files']}\n{formats}\n\n{about['rights']}"


def register(data_set: DataSet) -> DataSet:
    """Make a data set known by its name."""
    DATA_SETS[data_set.name] = data_set
    return data_set


def data_set_named(name: str) -> DataSet:
    """The data set of this name, in any spelling; a :class:`~attngraph.UserError` if there is none."""
    name = spelled(name, DATA_SETS)
    check_known([name], list(DATA_SETS), "data set")
    return DATA_SETS[name]


def split_examples(data_set: DataSet, root: Path, split: str, reader: Reader | None = None) -> list[Example]:
    """The examples of a split, read again; :func:`attngraph.experiments.data.tables.table` keeps them on disk
    instead.

    Raises:
        UserError: see :meth:`Reader.examples`; also if there is no example.
    """
    return list(Reading(data_set, root).examples(reader or data_set.reader(root, split), split))


# ---- damaged records --------------------------------------------------------------------------------------


class Reading:
    """One pass over the files of a data set: what it leaves out, and what is damaged.

    Args:
        data_set: which.
        root: its folder.
        collects: whether faults are collected, also those that ``damaged.json`` in the folder lists; if not,
            what is listed is left out, and the first other fault is an error.

    Attributes:
        pictures: of the folder.
        faults: what is damaged -> the message.
        left_out: how many records and examples were left out.
        lost: ids of these, as far as they are known.
        unscored: ids of what the official rules leave out of the split; files of predictions may have them.
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
        """The examples of a split whose pictures are not left out.

        Raises:
            UserError: as the reader raises it; or there is no example.
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
    ) -> Iterator[Made]:
        """What is made of each record, without those that are left out.

        Args:
            file, found: the file; places and contents of its records.
            make: makes something of a record, or None of one that is passed over.
            key: the field that no two records may share.

        Raises:
            Damaged: as ``make`` raises it, if faults are not collected.
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
                        f"{error}; or leave it out: `attngraph data check {self.data_set.name} --root "
                        f"{self.root} --leave-out` lists all that is damaged"
                    ) from None
                self.faults[what] = str(error)
            if isinstance(content, dict) and isinstance(content.get(key), (int, str)):
                self.lost.add(str(content[key]))

    def picture_fault(self, image: Path, fault: str) -> None:
        """Remembers that a picture is damaged."""
        self.faults[self._path(image)] = f"{image}: {fault}"

    def _path(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix() if file.is_relative_to(self.root) else str(file)


def is_picture(what: str) -> bool:
    """Whether an entry of the list is a picture, which only ``--deep`` looks at; else it is a record."""
    return _IN not in what


def read_list(root: Path) -> dict[str, str]:
    """What the list in a data set's folder names; nothing where there is no list.

    Raises:
        UserError: it is damaged.
    """
    file = root / LIST
    content = read_json(file) if file.exists() else {}
    if not isinstance(content, dict) or not all(isinstance(why, str) for why in content.values()):
        raise UserError(
            f"{file}: is no list of damaged records, {{what: why}}; remove it, or write it again with "
            "`attngraph data check NAME --root FOLDER --leave-out`"
        )
    return content


def write_list(root: Path, damaged: Mapping[str, str]) -> None:
    """Writes the list of what is left out from now on; removes it where nothing is damaged."""
    file = root / LIST
    if damaged:
        write_json(file, damaged, ensure_ascii=False)
    else:
        file.unlink(missing_ok=True)
    note(f"{file}: what is left out from now on ({len(damaged):,})")
