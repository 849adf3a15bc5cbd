"""Reading annotation files with errors that say which file and field is wrong and what to do."""

import json
import os
from pathlib import Path

from attngraph.errors import UserError

_SUFFIXES = ("", ".jpg", ".png", ".jpeg")


def read_json(file: Path) -> object:
    """The parsed JSON file; a :class:`UserError` if it is missing or not JSON."""
    text = read_text(file)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: not valid JSON ({error}); download or write the file again") from None


def read_text(file: Path) -> str:
    """The file's text; a :class:`UserError` if it is missing or unreadable."""
    try:
        return Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; check the path or download the official file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file}: cannot be read ({error}); check the path or download the file again"
        ) from None


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
        raise UserError(
            f"{file}: {where} is {type(record).__name__}, not an object; is this the official file?"
        )
    if name not in record:
        raise UserError(f"{file}: {where} has no field '{name}'; is this the official file?")
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(
            f"{file}: field '{name}' of {where} is {type(value).__name__}; is this the official file?"
        )
    return value


class Images:
    """Finds images in a folder by name, with or without suffix.

    Args:
        folder: the image folder.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        try:
            self._names = set(os.listdir(self.folder))
        except OSError:
            raise UserError(
                f"{self.folder}: no such image folder; check the path or unpack the images there"
            ) from None

    def path(self, name: str, file: Path, where: str) -> Path:
        """The path of an image whose name may lack its suffix. An error names ``file`` and ``where``."""
        stem, suffix = os.path.splitext(name)
        for candidate in (
            *(name + end for end in _SUFFIXES),
            *(stem + end for end in _SUFFIXES[1:] if suffix),
        ):
            if candidate in self._names:
                return self.folder / candidate
        raise UserError(
            f"{self.folder / name}: no such image, though {where} of {file} needs it; unpack all images there"
        )
