"""Ways to damage a file, a JSON value or a folder with a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DEEP = "[" * 100_000 + "]" * 100_000


def _missing(file: Path) -> None:
    file.unlink(missing_ok=True)


def _folder(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.mkdir()


def _truncated(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def _loop(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to(file.name)


#: For every file, whatever its format.
ANY_FILE: dict[str, Callable[[Path], object]] = {
    "missing": _missing,
    "a folder": _folder,
    "a link to itself": _loop,
    "empty": lambda file: file.write_bytes(b""),
    "not UTF-8": lambda file: file.write_bytes(b"\xff\xfe\xfa{" + bytes(range(128, 256))),
    "zero bytes": lambda file: file.write_bytes(bytes(1000)),
}
TRUNCATED: dict[str, Callable[[Path], object]] = {"truncated": _truncated}
#: For files with JSON, where a record is expected.
JSON_FILE: dict[str, Callable[[Path], object]] = {
    **ANY_FILE,
    "null": lambda file: file.write_text("null"),
    "a list": lambda file: file.write_text("[]"),
    "a list of null": lambda file: file.write_text("[null]"),
    "a record without fields": lambda file: file.write_text("{}"),
    "a number": lambda file: file.write_text("3"),
    "a text": lambda file: file.write_text('"text"'),
    "deep": lambda file: file.write_text(DEEP),
    "not JSON": lambda file: file.write_text("{'a': 1}"),
    "huge number": lambda file: file.write_text("1" * 10_000),
    **TRUNCATED,
}


def change_json(file: Path, place: tuple[str | int, ...], value: Any) -> None:
    """Puts a value at a place of a JSON file; removes it where the value is ``...``."""
    content = json.loads(file.read_text(encoding="utf-8"))
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    file.write_text(json.dumps(content))


def wrong_values(right: Any) -> Iterator[tuple[str, Any]]:
    """Values of other types than the right one's, and none at all."""
    yield "missing", ...
    for value in (None, 3, 1.5, "text", [], {}, [None], True):
        if type(value) is not type(right) and not (isinstance(right, float) and isinstance(value, int)):
            yield repr(value), value
