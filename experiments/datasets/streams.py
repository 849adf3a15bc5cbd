"""Reads the records of large JSON files one after the other, so that only one of them is in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from json.decoder import WHITESPACE, JSONDecodeError, JSONDecoder
from pathlib import Path

from attngraph.errors import UserError
from experiments.datasets.reading import REMEDY, field, read_text, refuse_constant

_decode = JSONDecoder(parse_constant=refuse_constant).raw_decode


def records(file: Path, name: str | None = None) -> Iterator[tuple[str, object]]:
    """Each record of a JSON file with its place, such as ``("questions[3]", {...})``.

    The file's text is held in memory, its records are parsed as they are asked for: a file of 356 MB with
    4.4 million answers takes about its own size and not six times that.

    Args:
        file: holds an object with a list in the field ``name``, or a list.
        name: of that field; None for a list.

    Raises:
        UserError: the file is missing or not JSON, or holds no such list; what comes before the fault has
            been given by then.
    """
    text = read_text(file)
    try:
        start = _past_space(text, 0)
        if text[start : start + 1] != ("[" if name is None else "{"):
            yield from _all_records(text, file, name)
        elif name is None:
            end = yield from _elements(text, start, "record ", "")
            _finish(text, end)
        else:
            yield from _field_records(text, start, file, name)
    except RecursionError:
        raise _not_json(file, "its lists or objects are nested too deeply") from None
    except ValueError as error:  # not JSON, or a number with thousands of digits
        raise _not_json(file, str(error)) from None


def _all_records(text: str, file: Path, name: str | None) -> Iterator[tuple[str, object]]:
    """The records of a file that begins with something else: an error names it."""
    content = json.loads(text, parse_constant=refuse_constant)
    if name is not None:
        field(content, name, list, file, "the file")
    raise UserError(f"{file}: the file is {type(content).__name__}, not a list; give the official file")


def _field_records(text: str, start: int, file: Path, name: str) -> Iterator[tuple[str, object]]:
    """The records in the field ``name`` of the object that begins at ``start``."""
    found, at = False, _past_space(text, start + 1)
    while text[at : at + 1] != "}":
        key, at = _decode(text, at)
        at = _past_space(text, at)
        if not isinstance(key, str) or text[at : at + 1] != ":":
            raise JSONDecodeError("Expecting ':' after a name", text, at)
        at = _past_space(text, at + 1)
        if key == name and text[at : at + 1] == "[":
            found, at = True, (yield from _elements(text, at, f"{name}[", "]"))
        else:
            value, at = _decode(text, at)
            if key == name:
                field({name: value}, name, list, file, "the file")
        at = _past_space(text, at)
        if text[at : at + 1] == ",":
            at = _past_space(text, at + 1)
            if text[at : at + 1] == "}":
                raise JSONDecodeError("Illegal trailing comma before end of object", text, at)
        elif text[at : at + 1] != "}":
            raise JSONDecodeError("Expecting ',' delimiter", text, at)
    _finish(text, at + 1)
    if not found:
        field({}, name, list, file, "the file")


def _elements(text: str, start: int, before: str, after: str) -> Iterator[tuple[str, object]]:
    """The elements of the list that begins at ``start``; returns the place behind it."""
    at, number = _past_space(text, start + 1), 0
    if text[at : at + 1] == "]":
        return at + 1
    while True:
        record, at = _decode(text, at)
        yield f"{before}{number}{after}", record
        number += 1
        if text[at : at + 1] != ",":
            at = _past_space(text, at)
            if text[at : at + 1] == "]":
                return at + 1
            if text[at : at + 1] != ",":
                raise JSONDecodeError("Expecting ',' delimiter", text, at)
        at = _past_space(text, at + 1)
        if text[at : at + 1] == "]":
            raise JSONDecodeError("Illegal trailing comma before end of array", text, at)


def _past_space(text: str, at: int) -> int:
    return WHITESPACE.match(text, at).end()


def _finish(text: str, at: int) -> None:
    at = _past_space(text, at)
    if at != len(text):
        raise JSONDecodeError("Extra data", text, at)


def _not_json(file: Path, fault: str) -> UserError:
    return UserError(f"{file}: not valid JSON ({fault}); {REMEDY}")
