"""Damaged records: each is an error, unless the list ``damaged.json`` in the data set's folder names it.

``attngraph data check NAME --root FOLDER --leave-out`` writes the list, an object ``{what: why}``. What is
left out is a record of a file (``dataset_coco.json: images[17]``), or a picture with all that is about it
(``val2014/COCO_val2014_000000000042.jpg``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from attngraph.errors import UserError
from experiments.base.files import write_json
from experiments.base.progress import note
from experiments.base.reading import Damaged, Record, Unique, read_json
from experiments.data.example import Example

LIST = "damaged.json"
_IN = ": "  # between a file and the record's place in it

Made = TypeVar("Made")


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
        self.faults: dict[str, str] = {}
        self.left_out = 0
        self.lost: set[str] = set()
        self.unscored: set[str] = set()
        self._records: dict[str, set[str]] = {}
        for what in read_list(root) if listed is None else listed:
            file, _, where = what.partition(_IN)
            self._records.setdefault(file, set()).add(where)

    def each(
        self,
        file: Path,
        found: Iterable[tuple[str, Any]],
        make: Callable[[Record], Made | None],
        key: str | None = None,
        lost: set | None = None,
    ) -> Iterator[Made]:
        """What is made of each record, without those that are left out.

        Args:
            file: of the records.
            found: their places and contents.
            make: makes something of a record, or None of one that is passed over; raises
                :class:`~experiments.base.reading.Damaged`.
            key: the field that no two records may share.
            lost: gets the keys of records that are left out, so that nothing misses them.

        Raises:
            Damaged: a record is, and faults are not collected.
        """
        listed = self._records.get(self._path(file), ())
        keys = None if key is None else Unique(file, key)
        for where, content in found:
            try:
                if where in listed:
                    self.left_out += 1
                elif (made := make(Record(content, file, where))) is None:
                    continue
                else:
                    if keys is not None:
                        keys.add(content[key], where)
                    yield made
                    continue
            except Damaged as error:
                self.fault(file, where, error)
            if isinstance(content, dict) and isinstance(content.get(key), (int, str)):
                self.lost.add(str(content[key]))
                if lost is not None:
                    lost.add(content[key])

    def fault(self, file: Path, where: str, error: Damaged) -> None:
        """A record is damaged.

        Raises:
            Damaged: it is not listed, and faults are not collected.
        """
        if where not in self._records.get(self._path(file), ()):
            self._tell(f"{self._path(file)}{_IN}{where}", str(error))

    def picture_fault(self, image: Path, error: Damaged) -> None:
        """What is said about a picture is damaged as a whole."""
        if not self._leaves_out(image):
            self._tell(self._path(image), str(error))

    def kept(self, examples: Iterator[Example]) -> Iterator[Example]:
        """The examples whose pictures are not left out."""
        for example in examples:
            if self._leaves_out(example.image):
                self.left_out += 1
                self.lost.add(example.id)
            else:
                yield example

    def _leaves_out(self, image: Path) -> bool:
        return bool(self._records) and self._path(image) in self._records

    def _tell(self, what: str, message: str) -> None:
        if not self.collects:
            raise Damaged(
                f"{message}; or leave it out: `attngraph data check {self.name} --root {self.root} "
                "--leave-out` lists all that is damaged"
            )
        self.faults[what] = message

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
