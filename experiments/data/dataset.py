"""What a data set is: its files, its splits, and how their records become examples.

A data set is a :class:`DataSet` with one :class:`Reader` for each format that its annotations come in, made
known by ``register``. ``attngraph data``, the tables (:mod:`experiments.data.tables`) and the tasks know of a
data set only through this.

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
from typing import Any, NamedTuple, TypeVar

import yaml

from attngraph.errors import UserError
from experiments.base.files import write_json
from experiments.base.messages import check_known
from experiments.base.progress import note
from experiments.base.reading import REPLACE, Damaged, Record, Unique, read_json
from experiments.data.example import Example

DATA_SETS: dict[str, DataSet] = {}
OFFICIAL = {"train": "train", "validation": "val", "test": "test"}  # what tasks and files call splits
ANNOTATORS = 10  # answers to a question of VQA v2 and VizWiz
LIST = "damaged.json"
ABOUT = Path(__file__).with_name("data_sets.yaml")
_IN = ": "  # between a file and the record's place in it

Made = TypeVar("Made")


class Annotation(NamedTuple):
    """What is known of an example's answer."""

    references: tuple[str, ...]
    kind: str
    groups: dict[str, str]


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

    def annotation(self, record: Record) -> Annotation:
        """What a record says about an example's answer."""
        found = record.field(self.references, str, list)
        if isinstance(found, str):
            references = (record.text(self.references).strip(),)
        elif self.annotators is None:
            references = record.captions(self.references, self.item)
        else:  # many questions have the same answers
            references = tuple(map(intern, record.texts(self.references, self.item, self.annotators)))
        kind = _said(record, self.kinds) or self.kind
        groups = {name: said for name, at in self.groups.items() if (said := _said(record, at))}
        return Annotation(references, kind, groups)

    def example(self, record: Record, image: Path, annotation: Annotation | None) -> Example:
        """The example of a record with id and prompt.

        Args:
            record: the one.
            image: its picture.
            annotation: None in splits without annotations.
        """
        identity = self.identity(str(record.field(self.id, str, int)))
        prompt = "" if self.prompt is None else record.text(self.prompt)
        references, kind, groups = annotation or Annotation((), self.kind, {})
        return Example(identity, image, prompt, references, kind, groups=groups)


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
    def image_folders(self, root: Path, split: str) -> list[Path]:
        """The folders that hold the split's images."""

    @abstractmethod
    def examples(self, root: Path, split: str, reading: Reading) -> Iterator[Example]:
        """The examples of a split, in the order of its file; records are read by :meth:`Reading.each`.

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
            for; tasks prefer one whose test split has annotations.
    """

    name: str
    title: str
    unit: str
    readers: tuple[Reader, ...]

    def reader(self, root: Path, split: str, form: str | None = None) -> Reader:
        """The reader of a split.

        Args:
            root: the data set's folder.
            split: the split's official name.
            form: the format's name; None for the first one whose files exist.

        Raises:
            UserError: there is no such format or split, or none of the files exist.
        """
        readers = [reader for reader in self.readers if form in (None, reader.name)]
        if not readers:
            check_known([form], [reader.name for reader in self.readers], f"format of {self.title}")
        able = [reader for reader in readers if split in reader.splits]
        if not able:
            known = dict.fromkeys(name for reader in readers for name in reader.splits)
            check_known([split], list(known), f"split of {self.title}")
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
        lines = ["formats; tasks read the first with all splits, those with an annotated test split first"]
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
    """The data set of this name; a :class:`~attngraph.UserError` if there is none."""
    check_known([name], list(DATA_SETS), "data set")
    return DATA_SETS[name]


def split_examples(data_set: DataSet, root: Path, split: str, reader: Reader | None = None) -> list[Example]:
    """The examples of a split, read again; :func:`experiments.data.tables.table` keeps them on disk instead.

    Args:
        data_set, root, split: as for :meth:`DataSet.reader`.
        reader: None for the first one whose files exist.

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


# ---- damaged records --------------------------------------------------------------------------------------


class Reading:
    """One pass over the files of a data set: what it leaves out, and what is damaged.

    Args:
        name: the data set's.
        root: its folder.
        collects: whether faults are collected; if not, the first is an error.
        listed: what is left out, ``{what: why}``; None for what ``damaged.json`` in the folder names.

    Attributes:
        faults: what is damaged -> the message.
        left_out: how many records and examples were left out.
        lost: ids of these, as far as they are known.
        unscored: ids of what the official rules leave out of the split; files of predictions may have them.
    """

    def __init__(
        self, name: str, root: Path, collects: bool = False, listed: Mapping[str, str] | None = None
    ):
        self.name, self.root, self.collects = name, root, collects
        self.listed = read_list(root) if listed is None else listed
        self.faults: dict[str, str] = {}
        self.left_out = 0
        self.lost: set[str] = set()
        self.unscored: set[str] = set()

    def each(
        self,
        file: Path,
        found: Iterable[tuple[str, Any]],
        make: Callable[[Record], Made | None],
        key: str,
    ) -> Iterator[Made]:
        """What is made of each record, without those that are left out.

        Args:
            file: of the records.
            found: their places and contents.
            make: makes something of a record, or None of one that is passed over; raises
                :class:`~experiments.base.reading.Damaged`.
            key: the field that no two records may share.

        Raises:
            Damaged: a record is, and faults are not collected.
        """
        name, keys = self._path(file), Unique(file, key)
        for where, content in found:
            what = f"{name}{_IN}{where}"
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
                self._tell(what, error)
            if isinstance(content, dict) and isinstance(content.get(key), (int, str)):
                self.lost.add(str(content[key]))

    def picture_fault(self, image: Path, fault: str) -> None:
        """A picture is damaged."""
        if not self._leaves_out(image):
            self._tell(self._path(image), Damaged(f"{image}: {fault}"))

    def kept(self, examples: Iterator[Example]) -> Iterator[Example]:
        """The examples whose pictures are not left out."""
        for example in examples:
            if self._leaves_out(example.image):
                self.left_out += 1
                self.lost.add(example.id)
            else:
                yield example

    def _leaves_out(self, image: Path) -> bool:
        return bool(self.listed) and self._path(image) in self.listed

    def _tell(self, what: str, error: Damaged) -> None:
        if not self.collects:
            raise Damaged(
                f"{error}; or leave it out: `attngraph data check {self.name} --root {self.root} "
                "--leave-out` lists all that is damaged"
            )
        self.faults[what] = str(error)

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
    if not file.exists():
        return {}
    content = read_json(file)
    if not isinstance(content, dict) or not all(isinstance(why, str) for why in content.values()):
        raise UserError(
            f"{file}: is no list of damaged records, {{what: why}}; remove it, or write it again with "
            "`attngraph data check NAME --root FOLDER --leave-out`"
        )
    return content


def write_list(root: Path, damaged: Mapping[str, str]) -> None:
    """Writes the list of what is left out from now on; removes it where nothing is damaged."""
    file = root / LIST
    try:
        if damaged:
            write_json(file, damaged, ensure_ascii=False)
        else:
            file.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{file} cannot be written ({error.strerror or error}): check your rights to the folder"
        ) from None
    note(f"{file}: what is left out from now on ({len(damaged):,})")
