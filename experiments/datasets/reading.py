"""Reading annotation files with errors that say which file and field is wrong and what to do."""

import json
import os
import reprlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from attngraph.errors import UserError

_SUFFIXES = ("", ".jpg", ".png", ".jpeg", ".JPG", ".PNG", ".JPEG")
REMEDY = "download or write the file again"
_OFFICIAL = "check the path or download the official file"

_short = reprlib.Repr()
_short.maxstring = 80


def read_json(file: Path) -> object:
    """The parsed JSON file; a :class:`UserError` if it is missing or not JSON."""
    return _parsed(read_text(file), file, "")


def read_lines(file: Path) -> Iterator[tuple[str, str]]:
    """Each line of a file: ``("line 3", its text)``. Blank lines are left out.

    Only a line feed ends a line; other separators, such as U+2028, may stand inside a text.

    Raises:
        UserError: the file is missing or no text.
    """
    text, start, number = read_text(file), 0, 0
    while start <= len(text):  # no list of all lines: they would take as much memory again
        end = text.find("\n", start)
        line = text[start : end if end >= 0 else len(text)]
        start, number = start + len(line) + 1, number + 1
        if line.strip():
            yield f"line {number}", line


def json_line(line: str, file: Path, where: str) -> object:
    """A line of a JSON Lines file, parsed.

    Raises:
        UserError: it is not JSON.
    """
    return _parsed(line, file, f"{where} is ")


def read_text(file: Path, remedy: str = _OFFICIAL) -> str:
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


def field(record: object, name: str, kind: type | tuple[type, ...], file: Path, where: str) -> object:
    """``record[name]``, checked to be present and of the right type.

    Args:
        record: what should be a JSON object.
        name: of the field.
        kind: accepted type or types.
        file: the record's file, for the error.
        where: which record this is, for the error, such as "questions[3]".
    """
    if not isinstance(record, dict):
        raise UserError(f"{file}: {where} is {type(record).__name__}, not an object; give the official file")
    if name not in record:
        raise UserError(f"{file}: {where} has no field '{name}'; give the official file")
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(
            f"{file}: field '{name}' of {where} is {type(value).__name__}; give the official file"
        )
    if isinstance(value, str) and not is_text(value):
        raise UserError(
            f"{file}: field '{name}' of {where} holds half a character ({shown(value)}); {REMEDY}"
        )
    return value


def text_field(record: object, name: str, file: Path, where: str) -> str:
    """``record[name]``, checked to be a text that is not blank."""
    text = str(field(record, name, str, file, where))
    if not text.strip():
        raise UserError(f"{file}: field '{name}' of {where} is empty; write it, or leave {where} out")
    return text


def shown(value: object) -> str:
    """A value for an error: quoted, on one line and not long."""
    return _short.repr(value)


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
            raise UserError(
                f"{self.file}: {where} has the {self.name} {shown(value)}, which {first} has too; remove one "
                "of them"
            )


class Images:
    """Finds images in a folder by name, with or without suffix.

    Args:
        folder: the image folder.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        try:
            self._names = set(os.listdir(self.folder))
        except (FileNotFoundError, ValueError):  # a name with a null character is a ValueError
            fault = "no such image folder; check the path or unpack the images there"
        except NotADirectoryError:
            fault = "is no folder; move it away and unpack the images there"
        except OSError as error:
            fault = f"cannot be read ({error.strerror}); check the path and your rights to it"
        else:
            return
        raise UserError(f"{self.folder}: {fault}")

    def path(self, name: str, file: Path, where: str) -> Path:
        """The path of an image whose name may lack its suffix. An error names ``file`` and ``where``."""
        stem, suffix = os.path.splitext(name)
        candidates = [name + end for end in _SUFFIXES] + [stem + end for end in _SUFFIXES[1:] if suffix]
        for candidate in candidates:
            if candidate in self._names:
                return self.folder / candidate
        remedy = "unpack all images there"
        for below in self._below:
            if any(os.path.isfile(below / candidate) for candidate in candidates):
                remedy = f"it is one folder below: move the content of {below} there"
        raise UserError(
            f"{self.folder}: no such image as {shown(name)}, though {where} of {file} needs it; {remedy}"
        )

    @cached_property
    def _below(self) -> list[Path]:
        """The folder's folders."""
        return sorted(path for path in self.folder.iterdir() if path.is_dir())


def _parsed(text: str, file: Path, where: str) -> object:
    try:
        return json.loads(text, parse_constant=refuse_constant)
    except RecursionError:
        fault = "its lists or objects are nested too deeply"
    except ValueError as error:  # not JSON, or a number with thousands of digits
        fault = str(error)
    raise UserError(f"{file}: {where}not valid JSON ({fault}); {REMEDY}")


def refuse_constant(constant: str) -> NoReturn:
    """Refuses the NaN and Infinity that Python's parser takes."""
    raise ValueError(f"{constant} is no number in JSON")


def is_text(value: str) -> bool:
    """Whether a text holds whole characters only; JSON can write halves (``"\\ud800"``)."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
