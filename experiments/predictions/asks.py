"""Files that ask a model about pictures: JSON, JSON Lines or CSV, a record for each picture and text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from experiments.datasets.reading import Record, is_text, read_text, records, shown

IMAGE, TEXT, ANSWER = "image", "text", "answer"
FORMATS = (".json", ".jsonl", ".csv")


@dataclass(frozen=True)
class Ask:
    """A picture with a text about it.

    Args:
        image: its file.
        text: a question or statement; empty where the task has no text of its own.
        record: all that the file says, which goes on to the answers.
    """

    image: Path
    text: str
    record: dict[str, Any]


def read_asks(file: Path, with_text: bool) -> list[Ask]:
    """The records of a file, in its order. Pictures are looked for beside the file.

    Args:
        file: ``.json`` (a list of objects), ``.jsonl`` or ``.csv``, with the fields ``image`` and ``text``.
        with_text: whether each record has a text; none has one otherwise.

    Raises:
        UserError: the file is missing or of another kind, or a record lacks a field.
    """
    if file.suffix not in FORMATS:
        raise UserError(f"{file}: is no file of records: give one that ends with {', '.join(FORMATS)}")
    asks = []
    due = (IMAGE, TEXT) if with_text else (IMAGE,)
    for where, record in _records(file):
        if isinstance(record, dict) and (missing := [name for name in due if name not in record]):
            raise UserError(f"{file}: {where} has no field '{missing[0]}': give each {' and '.join(due)}")
        given = Record(record, file, where)
        image, text = given.text(IMAGE), given.text(TEXT) if with_text else ""
        if not with_text and record.get(TEXT):
            raise UserError(f"{file}: {where} has a text ({shown(record[TEXT])}): leave it out for this task")
        if ANSWER in record:
            raise UserError(f"{file}: {where} has a field '{ANSWER}', where the model's goes: leave it out")
        if not is_text(json.dumps(record, ensure_ascii=False)):
            raise UserError(f"{file}: {where} holds half a character, which no file can take: correct it")
        asks.append(Ask(file.parent / image, text, record))
    if not asks:
        raise UserError(f"{file}: holds no records: write one for each picture, with {IMAGE} and {TEXT}")
    return asks


def _records(file: Path) -> Iterator[tuple[str, Any]]:
    """Each record with its place."""
    if file.suffix != ".csv":
        yield from records(file)
        return
    rows = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
    try:
        for number, row in enumerate(rows, 2):
            if None in row or None in row.values():
                raise UserError(f"{file}: row {number} has not as many cells as the first row: correct it")
            yield f"row {number}", row
    except csv.Error as error:
        raise UserError(f"{file}: row {rows.line_num} is no CSV ({error}): correct it") from None
