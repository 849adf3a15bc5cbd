"""Reading annotation files, with errors that name the file, record, field and remedy."""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from attngraph.errors import UserError

_SUFFIXES = (".jpg", ".png", ".jpeg", ".JPG", ".PNG", ".JPEG")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # JSON writes some characters in two halves
REMEDY = "download or write the file again"
REPLACE = "use the official file"

_short = reprlib.Repr()
_short.maxstring = 80


class Damaged(UserError):
    """An error about one record or image; others of the file may be intact."""


# ---- files ------------------------------------------------------------------------------------------------


def read_json(file: Path) -> Any:
    """The parsed JSON file; a :class:`UserError` if it is missing or not JSON."""
    return _parsed(read_text(file), file, "", UserError)


def records(file: Path, name: str | None = None) -> Iterator[tuple[str, Any]]:
    """Each record of a file with its position, such as ``("questions[3]", {...})``.

    Args:
        file: a JSON file of an object with a list in the field ``name``, or of a list; or a file with one
            record per line (``.jsonl``), in which a line that is not JSON becomes a :class:`Damaged` error as
            the record.
        name: name of that field; None for a list.

    Raises:
        UserError: the file is missing or not JSON, or does not contain such a list.
    """
    if file.suffix == ".jsonl":
        # only a line feed ends a line: others, such as U+2028, may be part of a text
        for number, line in enumerate(read_text(file).split("\n"), 1):
            if line.strip():
                try:
                    yield f"line {number}", _parsed(line, file, f"line {number} is ", Damaged)
                except Damaged as error:
                    yield f"line {number}", error
        return
    content = read_json(file)
    if name is not None:
        listed = Record(content, file, "the file").field(name, list)
        yield from ((f"{name}[{number}]", record) for number, record in enumerate(listed))
    elif isinstance(content, list):
        yield from ((f"record {number}", record) for number, record in enumerate(content))
    else:
        raise UserError(f"{file}: the file is {type(content).__name__}, not a list; {REPLACE}")


def read_text(file: Path, remedy: str = "check the path or download the official file") -> str:
    """The file's text, without a byte order mark.

    Args:
        file: a regular file; pipes and devices, which may have no end, are errors.
        remedy: what to do if the file does not exist.

    Raises:
        UserError: the file is missing, unreadable, or not a text file.
    """
    file = Path(file)
    if not file.is_file():
        fault = "is not a file" if file.exists() else "no such file"
        raise UserError(f"{file}: {fault}; {remedy}")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check its permissions") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 text ({error}); {REMEDY} in UTF-8") from None
    if "\0" in text:
        raise UserError(f"{file}: is not text (it contains a zero byte); {REMEDY} as text")
    return text


def _parsed(text: str, file: Path, where: str, kind: type[UserError]) -> Any:
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
        if _HALF.search(text):
            json.dumps(content, ensure_ascii=False).encode()
        return content
    except RecursionError:
        fault = "lists or objects are nested too deeply"
    except UnicodeEncodeError as error:
        fault = f"half a character: {error.object[error.start]!a}"
    except ValueError as error:  # not JSON, or a number with thousands of digits
        fault = str(error)
    raise kind(f"{file}: {where}not valid JSON ({fault}); {REMEDY}")


def _refuse_constant(constant: str) -> NoReturn:
    """An error for NaN and Infinity, which Python's parser accepts."""
    raise ValueError(f"{constant} is not a number in JSON")


# ---- records ----------------------------------------------------------------------------------------------


class Record:
    """A record of a file, whose fields are checked on access.

    Args:
        content: the record, which should be a JSON object.
        file: the record's file, for errors.
        where: name of the record, for errors, such as ``questions[3]``.
        remedy: what the user can do about errors in the record.
    """

    __slots__ = ("content", "file", "remedy", "where")

    def __init__(self, content: Any, file: Path, where: str, remedy: str = REPLACE):
        self.content, self.file, self.where, self.remedy = content, file, where, remedy

    def fault(self, what: str, remedy: str | None = None) -> Damaged:
        """An error about this record."""
        return Damaged(f"{self.file}: {what}; {remedy or self.remedy}")

    def field(self, name: str, *kinds: type) -> Any:
        """A field, checked to exist and to have one of the types.

        Raises:
            Damaged: it is missing or has another type.
        """
        content, where = self.content, self.where
        if type(content) is dict:
            value = content.get(name)
            if type(value) in kinds:
                return value
            if name not in content:
                raise self.fault(f"{where} has no field '{name}'")
            raise self.fault(f"field '{name}' of {where} is {type(value).__name__}")
        if isinstance(content, Damaged):
            raise content
        raise self.fault(f"{where} is {type(content).__name__}, not an object")

    def text(self, name: str) -> str:
        """A field with a text that is not blank."""
        text = self.field(name, str)
        if not text.strip():
            raise self.fault(
                f"field '{name}' of {self.where} is empty", f"fill it in, or remove {self.where}"
            )
        return text

    def one_of(self, name: str, known: tuple[str, ...]) -> str:
        """A field with one of the known texts."""
        value = self.field(name, str)
        if value not in known:
            raise self.fault(f"field '{name}' of {self.where} is {shown(value)}", f"use {', '.join(known)}")
        return value

    def texts(self, name: str, item: str | None = None, least: int = 1) -> tuple[str, ...]:
        """The texts of the list ``name``: its elements, or a field ``item`` of each. They may be empty, as
        some answers of annotators are.

        Raises:
            Damaged: the field is not such a list, or has fewer than ``least`` entries.
        """
        found = self.field(name, list)
        if item is not None:
            found = [one.get(item) if type(one) is dict else one for one in found]
        if wrong := [place for place, text in enumerate(found) if type(text) is not str]:
            is_a = type(found[wrong[0]]).__name__
            raise self.fault(f"'{name}[{wrong[0]}]' of {self.where} is {is_a}, not a text")
        if len(found) < least:
            raise self.fault(
                f"field '{name}' of {self.where} has {len(found)} entries, at least {least} are required"
            )
        return tuple(found)

    def captions(self, name: str, item: str | None = None) -> tuple[str, ...]:
        """The captions of the list ``name``, none of them blank, without surrounding whitespace. Line breaks
        inside stay, since tokenisers handle them (:func:`attngraph.experiments.metrics.ptb.one_line`).
        """
        texts = tuple(text.strip() for text in self.texts(name, item))
        if "" in texts:
            place = f"'{name}[{texts.index('')}]' of {self.where}"
            raise self.fault(f"{place} is empty", "add the caption, or remove the entry")
        return texts


class Unique:
    """Detects duplicate values of a field in the records of a file.

    Args:
        file: the records' file, for the error.
        name: the field whose values must be unique.
    """

    def __init__(self, file: Path, name: str):
        self.file, self.name, self._places = file, name, {}

    def add(self, value: str | int, where: str) -> None:
        """Add the value of the record at ``where``; an error if an earlier record has it, as a text or as a
        number.
        """
        first = self._places.setdefault(str(value), where)
        if first != where:
            raise Damaged(
                f"{self.file}: {where} has the {self.name} of {first}, {shown(value)}; remove one of them"
            )


def shown(value: object) -> str:
    """A value for an error message: quoted, on one line and shortened."""
    return _short.repr(value)


# ---- pictures ---------------------------------------------------------------------------------------------


class Pictures:
    """Finds images below a dataset's folder; each folder is listed once, when it is first needed.

    Args:
        root: the dataset's folder.
    """

    def __init__(self, root: Path):
        self.root = root
        self._folders: dict[str, set[str]] = {}

    def path(self, folder: str, name: str, record: Record) -> Path:
        """The path of an image whose name may lack its suffix, or have another one.

        Raises:
            UserError: there is no such folder.
            Damaged: there is no such image, or the folder is outside of the dataset's.
        """
        if folder not in self._folders:
            place = PurePosixPath(folder)
            if place.is_absolute() or ".." in place.parts:
                raise record.fault(f"{record.where} has its image in {shown(folder)}, outside {self.root}")
            self._folders[folder] = _names(self.root / folder)
        held, stem = self._folders[folder], os.path.splitext(name)[0]
        if name in held:
            return self.root / folder / name
        for other in (one + suffix for one in (name, stem) for suffix in _SUFFIXES):
            if other in held:
                return self.root / folder / other
        raise Damaged(
            f"{self.root / folder}: no image {shown(name)}, which {record.where} of {record.file} refers to; "
            "unpack all images there"
        )


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        fault = getattr(error, "strerror", None) or error
        raise UserError(
            f"{folder}: not a readable image folder ({fault}); check the path or unpack the images there"
        ) from None
