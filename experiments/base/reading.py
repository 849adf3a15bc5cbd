"""Reading annotation files with errors that say which file, record and field is wrong and what to do."""

from __future__ import annotations

import gc
import json
import os
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from attngraph.errors import UserError

_SUFFIXES = ("", ".jpg", ".png", ".jpeg", ".JPG", ".PNG", ".JPEG")
REMEDY = "download or write the file again"
REPLACE = "give the official file"

_short = reprlib.Repr()
_short.maxstring = 80


class Damaged(UserError):
    """What is wrong with one record or picture; others of the file may be whole."""


# ---- files ------------------------------------------------------------------------------------------------


def read_json(file: Path) -> Any:
    """The parsed JSON file; a :class:`UserError` if it is missing or not JSON."""
    return _parsed(read_text(file), file, "", UserError)


def records(file: Path, name: str | None = None) -> Iterator[tuple[str, Any]]:
    """Each record of a file with its place, such as ``("questions[3]", {...})``.

    Args:
        file: holds an object with a list in the field ``name``, or a list; or a record a line (``.jsonl``):
            what is no JSON there is given as the :class:`Damaged` that says so.
        name: of that field; None for a list.

    Raises:
        UserError: the file is missing or not JSON, or holds no such list.
    """
    if file.suffix == ".jsonl":
        yield from _line_records(file)
        return
    content = read_json(file)
    if name is not None:
        listed = Record(content, file, "the file").field(name, list)
        yield from ((f"{name}[{number}]", record) for number, record in enumerate(listed))
    elif isinstance(content, list):
        yield from ((f"record {number}", record) for number, record in enumerate(content))
    else:
        raise UserError(f"{file}: the file is {type(content).__name__}, not a list; {REPLACE}")


def _line_records(file: Path) -> Iterator[tuple[str, Any]]:
    """Only a line feed ends a line; other separators, such as U+2028, may stand inside a text."""
    text, start, number = read_text(file), 0, 0
    while start <= len(text):  # no list of all lines: they would take as much memory again
        end = text.find("\n", start)
        line = text[start : end if end >= 0 else len(text)]
        start, number = start + len(line) + 1, number + 1
        if line.strip():
            try:
                yield f"line {number}", _parsed(line, file, f"line {number} is ", Damaged)
            except Damaged as error:
                yield f"line {number}", error


def read_text(file: Path, remedy: str = "check the path or download the official file") -> str:
    """The file's text, without a byte order mark.

    Args:
        file: anything else (a pipe, a device: they may have no end) is refused.
        remedy: what to do where there is no such file.

    Raises:
        UserError: the file is missing or unreadable, or holds no text.
    """
    file = Path(file)
    if not file.is_file():
        fault = "is no file" if file.exists() else "no such file"
        raise UserError(f"{file}: {fault}; {remedy}")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check your rights to it") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is no UTF-8 text ({error}); {REMEDY} in UTF-8") from None
    if "\0" in text:
        raise UserError(f"{file}: is no text (it holds a zero byte); {REMEDY} as text")
    return text


@contextmanager
def uncollected() -> Iterator[None]:
    """A block in which millions of records are read: none is part of a cycle, so that nothing is gained by
    looking for cycles among them, which takes a third of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _parsed(text: str, file: Path, where: str, kind: type[UserError]) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        fault = "its lists or objects are nested too deeply"
    except ValueError as error:  # not JSON, or a number with thousands of digits
        fault = str(error)
    raise kind(f"{file}: {where}not valid JSON ({fault}); {REMEDY}")


def _refuse_constant(constant: str) -> NoReturn:
    """Refuses the NaN and Infinity that Python's parser takes."""
    raise ValueError(f"{constant} is no number in JSON")


# ---- records ----------------------------------------------------------------------------------------------


class Record:
    """A record of a file, whose fields are checked as they are taken.

    Args:
        content: what should be a JSON object.
        file: the record's file, for errors.
        where: which record this is, for errors, such as ``questions[3]``.
    """

    __slots__ = ("content", "file", "where")

    def __init__(self, content: Any, file: Path, where: str):
        self.content, self.file, self.where = content, file, where

    def fault(self, what: str, remedy: str = REPLACE) -> Damaged:
        """An error about this record."""
        return Damaged(f"{self.file}: {what}; {remedy}")

    def has(self, name: str) -> bool:
        """Whether there is such a field."""
        return isinstance(self.content, dict) and name in self.content

    def field(self, name: str, *kinds: type) -> Any:
        """A field, checked to be there and to be of one of the types; texts, to hold whole characters.

        Raises:
            Damaged: it is missing or something else.
        """
        if type(self.content) is dict:
            value = self.content.get(name)
            if type(value) in kinds and (type(value) is not str or is_text(value)):
                return value
        raise self._wrong(name)

    def _wrong(self, name: str) -> Damaged:
        """What is wrong with a field."""
        content, where = self.content, self.where
        if isinstance(content, Damaged):
            return content
        if not isinstance(content, dict):
            return self.fault(f"{where} is {type(content).__name__}, not an object")
        if name not in content:
            return self.fault(f"{where} has no field '{name}'")
        value = content[name]
        if isinstance(value, str) and not is_text(value):
            return self.fault(f"field '{name}' of {where} holds half a character ({shown(value)})", REMEDY)
        return self.fault(f"field '{name}' of {where} is {type(value).__name__}")

    def text(self, name: str) -> str:
        """A field that holds a text which is not blank."""
        text = self.field(name, str)
        if not text.strip():
            raise self.fault(
                f"field '{name}' of {self.where} is empty", f"write it, or leave {self.where} out"
            )
        return text

    def one_of(self, name: str, known: tuple[str, ...]) -> str:
        """A field that holds one of some texts."""
        value = self.field(name, str)
        if value not in known:
            raise self.fault(
                f"field '{name}' of {self.where} is {shown(value)}",
                f"give one of {', '.join(known[:-1])} and {known[-1]}",
            )
        return value

    def texts(self, name: str, item: str | None = None, least: int = 1) -> tuple[str, ...]:
        """The texts of the list ``name``: its elements, or a field ``item`` of each. They may be empty, as
        the answers of annotators are.

        Raises:
            Damaged: they are no such list, or fewer than ``least``.
        """
        given = self.field(name, list)
        try:
            texts = tuple([one[item] for one in given] if item else given)
            "".join(texts).encode()
        except (KeyError, TypeError, UnicodeEncodeError):  # the slow way names what is wrong
            for place, one in enumerate(given):
                if item is None:
                    Record({f"{name}[{place}]": one}, self.file, self.where).field(f"{name}[{place}]", str)
                else:
                    Record(one, self.file, f"{self.where}.{name}[{place}]").field(item, str)
            raise
        if len(texts) < least:
            raise self.fault(
                f"field '{name}' of {self.where} has {len(texts)} entries, at least {least} are due"
            )
        return texts

    def captions(self, name: str, item: str | None = None) -> tuple[str, ...]:
        """The captions of the list ``name``, none of them blank, without the space around them. Line breaks
        inside stay: the tokenisers know them (:func:`experiments.metrics.ptb.one_line`).
        """
        texts = tuple(text.strip() for text in self.texts(name, item))
        if "" in texts:
            raise self.fault(
                f"'{name}[{texts.index('')}]' of {self.where} is empty", "write the caption, or leave it out"
            )
        return texts


class Unique:
    """Refuses a value that an earlier record of a file has.

    Args:
        file: the records' file, for the error.
        name: the field that no two records may share.
    """

    def __init__(self, file: Path, name: str):
        self.file, self.name, self._places = file, name, {}

    def add(self, value: str | int, where: str) -> None:
        """Remembers the value of the record at ``where``."""
        first = self._places.setdefault(value, where)
        if first != where:
            raise Damaged(
                f"{self.file}: {where} has the {self.name} {shown(value)}, which {first} has too; remove one "
                "of them"
            )


def shown(value: object) -> str:
    """A value for an error: quoted, on one line and not long."""
    return _short.repr(value)


def is_text(value: str) -> bool:
    """Whether a text holds whole characters only; JSON can write halves (``"\\ud800"``)."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---- pictures ---------------------------------------------------------------------------------------------


class Pictures:
    """Finds pictures below a data set's folder; each folder is listed once, when it is first needed.

    Args:
        root: the data set's folder.
    """

    def __init__(self, root: Path):
        self.root = root
        self._folders: dict[str, set[str]] = {}
        self._paths: dict[tuple[str, str], Path] = {}

    def path(self, folder: str, name: str, record: Record) -> Path:
        """The path of a picture whose name may lack its suffix.

        Raises:
            UserError: there is no such folder.
            Damaged: there is no such picture, or the folder is outside of the data set's.
        """
        found = self._paths.get((folder, name))
        if found is None:
            found = self._paths[folder, name] = self._found(folder, name, record)
        return found

    def _found(self, folder: str, name: str, record: Record) -> Path:
        place = PurePosixPath(folder)
        if place.is_absolute() or ".." in place.parts:
            raise record.fault(f"{record.where} has its image in {shown(folder)}, outside {self.root}")
        if folder not in self._folders:
            self._folders[folder] = _names(self.root / folder)
        names, here = self._folders[folder], self.root / folder
        stem, suffix = os.path.splitext(name)
        candidates = [name + end for end in _SUFFIXES] + [stem + end for end in _SUFFIXES[1:] if suffix]
        for candidate in candidates:
            if candidate in names:
                return here / candidate
        remedy = "unpack all images there"
        for below in sorted(path for path in here.iterdir() if path.is_dir()):
            if any(os.path.isfile(below / candidate) for candidate in candidates):
                remedy = f"it is one folder below: move the content of {below} there"
        raise Damaged(
            f"{here}: no such image as {shown(name)}, though {record.where} of {record.file} needs it; "
            f"{remedy}"
        )


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, ValueError):  # a name with a null character is a ValueError
        fault = "no such image folder; check the path or unpack the images there"
    except NotADirectoryError:
        fault = "is no folder; move it away and unpack the images there"
    except OSError as error:
        fault = f"cannot be read ({error.strerror}); check the path and your rights to it"
    raise UserError(f"{folder}: {fault}")
