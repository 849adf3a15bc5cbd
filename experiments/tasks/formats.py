"""Files of predictions in the formats that evaluation servers take, and files that ask about pictures.

Predictions are written and read whole: each example of a split has exactly one, or there is an error. A task
names its format (:attr:`experiments.tasks.Task.file_format`):

- :data:`VQA_RESULTS`: ``[{"question_id": 1000, "answer": "yes"}]``, as VQA v2's server and its evaluator take
  them. The server wants an answer to every question of ``test2015`` (447,793), for ``test-dev`` too.
- :data:`VIZWIZ`: ``[{"image": "VizWiz_val_00000000.jpg", "answer": "yes"}]``, and :data:`ANSWERABILITY` with
  ``"answerable": 0.9``. The name of the image's file tells the question, since VizWiz's annotations have no
  question ids. One file may hold both fields.
- :data:`SNLI_VE`: ``[{"pairID": "1.jpg#0r1e", "label": "neutral"}]``. There is no evaluation server: the
  fields have their names in the annotations. A generated text that names no label is written as ``-``, the
  annotations' mark for a pair without one; it is wrong for every pair.
- :data:`CAPTIONS`: ``[{"image_id": 42, "caption": "a red ball"}]``, as the servers of COCO and VizWiz and
  pycocoevalcap take them; :data:`TEXTCAPS` has ids that are texts of 16 hexadecimal digits.
- :data:`PLAIN`: ``[{"id": "test-0", "answer": "yes"}]``, for all other tasks
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from experiments.base.files import write_json
from experiments.base.reading import Record, Unique, is_text, read_json, read_text, records, shown
from experiments.metrics.exact import ENTAILMENT_WORDS, named_label

KINDS = {
    int: "a whole number",
    float: "a decimal number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
}
BOM = b"\xef\xbb\xbf"
NO_LABEL = "-"
IMAGE, TEXT, ANSWER = "image", "text", "answer"
ASKED = (".json", ".jsonl", ".csv")


@dataclass(frozen=True)
class Format:
    """A list of records with the id of an example and the text that was generated for it.

    Subclasses take other values than texts.

    Args:
        name: as messages call such files.
        id_field: the field that names the example.
        id_type: ``int`` or ``str``, as the data's annotations have it.
        value_field: the field with the prediction.
        such_as: a prediction, for messages.
    """

    name: str
    id_field: str
    id_type: type
    value_field: str
    such_as: Any = "yes"

    @property
    def sample(self) -> str:
        """A record, for messages."""
        identity = 1000 if self.id_type is int else "..."
        return json.dumps({self.id_field: identity, self.value_field: self.such_as})

    def record(self, id: str, prediction: Any) -> dict[str, Any]:
        """The record of a prediction.

        Raises:
            ValueError: the id is no whole number, where these are asked for.
        """
        identity = self.id_type(id)
        if str(identity) != id:
            raise ValueError(f"{id!r} is no whole number")
        return {self.id_field: identity, self.value_field: self.value(prediction)}

    def value(self, prediction: Any) -> Any:
        """What the file holds of a model's prediction."""
        return prediction

    def fault(self, value: Any, allow_empty: bool) -> str | None:
        """What is wrong with a value, and what to do, in words that go on from "field 'answer' ...".

        Args:
            value: as the file holds it.
            allow_empty: whether a text may be empty.
        """
        if not isinstance(value, str):
            return f"is {kind(value)}, not text; write it in quotes"
        if not is_text(value):
            return "holds half a character; write the text again"
        if not value.strip() and not allow_empty:
            return (
                "is empty; write an answer, or allow empty ones (--allow-empty), which evaluators score too"
            )
        return None


@dataclass(frozen=True)
class Labels(Format):
    """Records with a label."""

    def value(self, prediction: Any) -> Any:
        """The label that a generated text names, such as "correct" entailment."""
        return named_label(prediction) or NO_LABEL

    def fault(self, value: Any, allow_empty: bool) -> str | None:
        """See :meth:`Format.fault`."""
        labels = (*ENTAILMENT_WORDS, NO_LABEL)
        if not isinstance(value, str):
            return f"is {kind(value)}; give one of {', '.join(labels)}"
        if value not in labels:
            return f"is {shown(value)}; give one of {', '.join(labels)} (no label)"
        return None


@dataclass(frozen=True)
class Confidences(Format):
    """Records with a number from 0 to 1: how sure it is that the question can be answered."""

    def fault(self, value: Any, allow_empty: bool) -> str | None:
        """See :meth:`Format.fault`."""
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return f"is {kind(value)}; give a number from 0 to 1"
        if not 0 <= value <= 1:
            return f"is {shown(value)}; give a number from 0 to 1"
        return None


VQA_RESULTS = Format("VQA v2 results", "question_id", int, "answer")
VIZWIZ = Format("VizWiz-VQA results", "image", str, "answer")
ANSWERABILITY = Confidences("VizWiz answerability results", "image", str, "answerable", 0.9)
SNLI_VE = Labels("SNLI-VE labels", "pairID", str, "label", "neutral")
CAPTIONS = Format("COCO caption results", "image_id", int, "caption", "a red ball")
TEXTCAPS = Format("TextCaps results", "image_id", str, "caption", "a red ball")
PLAIN = Format("answers", "id", str, "answer")


def write_predictions(
    file: str | Path,
    form: Format,
    predictions: Mapping[str, Any],
    ids: Collection[str],
    allow_empty: bool = False,
) -> Path:
    """Writes a file of predictions, whole or not at all; returns its path.

    Args:
        file: an older one is replaced.
        form: of the records.
        predictions: example id -> what a model said.
        ids: of all examples of the split, in the order of the file.
        allow_empty: whether a text may be empty.

    Raises:
        UserError: an example has no prediction, a prediction has no example, or one cannot stand in such a
            file; nothing is written then.
    """
    _check_all_there(file, predictions, ids)
    known = frozenset(ids)
    if strange := [id for id in predictions if id not in known]:
        raise UserError(
            f"{file}: {len(strange)} predictions are about no example, first {shown(strange[0])}; give those "
            "of the same split"
        )
    written = []
    for id in ids:
        try:
            record = form.record(id, predictions[id])
        except ValueError:
            raise UserError(
                f"{file}: the example {shown(id)} cannot stand in a file of {form.name}, whose "
                f"'{form.id_field}' is a whole number; take the format of this data set"
            ) from None
        if fault := form.fault(record[form.value_field], allow_empty):
            raise UserError(f"{file}: field '{form.value_field}' of the example {shown(id)} {fault}")
        written.append(record)
    return write_json(file, written, indent=None)


def read_predictions(
    file: str | Path,
    form: Format,
    ids: Collection[str],
    allow_empty: bool = False,
    unscored: Collection[str] = (),
) -> dict[str, Any]:
    """The predictions of a file: example id -> value, in the order of ``ids``.

    A record may have more fields than the format's two. An object ``{"<example id>": "<text>"}``, as
    ``attngraph ablation`` leaves it in ``predictions.json`` of a cell, is read too.

    Args:
        file: with a list of records.
        form: of the records.
        ids: of all examples of the split.
        allow_empty: whether a text may be empty.
        unscored: ids that the official evaluation leaves out, and of damaged records; records about them are
            not looked at.

    Raises:
        UserError: the file is missing or not JSON; or it lacks an example, has one twice or one that the
            split does not have, or a value of the wrong type. The message names the record: ``[0]`` is the
            first.
    """
    file = Path(file)
    content = read_json(file)
    with file.open("rb") as stream:
        if stream.read(len(BOM)) == BOM:
            raise UserError(
                f"{file}: begins with a byte order mark, which evaluation servers refuse; save it as UTF-8 "
                "without one"
            )
    known, seen = frozenset(ids), Unique(file, form.id_field)
    found = {}
    for where, id, value, field in _entries(file, form, content):
        seen.add(id, where)
        if id in unscored:
            continue
        if id not in known:
            raise UserError(
                f"{file}: {where} is about {form.id_field} {shown(id)}, which these data do not have; give "
                "predictions for the same data and split (--split)"
            )
        if fault := form.fault(value, allow_empty):
            raise UserError(f"{file}: {field} {fault}")
        found[id] = value
    _check_all_there(file, found, ids)
    return {id: found[id] for id in ids}


def _entries(file: Path, form: Format, content: object) -> Iterator[tuple[str, str, Any, str]]:
    """Where each record stands, its example's id, its value, and what messages call the value."""
    if isinstance(content, dict):
        # as pairs, since of an id that stands there twice the object has lost one
        seen = set()
        for id, text in json.loads(read_text(file), object_pairs_hook=list):
            if id in seen:
                raise UserError(f"{file}: has the entry {shown(id)} twice; remove one of them")
            seen.add(id)
            if isinstance(text, str):
                text = form.value(text)
            yield f"the entry {shown(id)}", id, text, f"the entry {shown(id)}"
        return
    if not isinstance(content, list):
        raise UserError(
            f"{file}: holds {kind(content)}, no list; write {form.name} as a list of records such as "
            f"{form.sample}"
        )
    for number, record in enumerate(content):
        where = f"[{number}]"
        if not isinstance(record, dict):
            raise UserError(f"{file}: {where} is {kind(record)}; give a record such as {form.sample}")
        for name in (form.id_field, form.value_field):
            if name not in record:
                raise UserError(
                    f"{file}: {where} has no field '{name}'; give {form.name}, records such as {form.sample}"
                )
        identity = record[form.id_field]
        if not isinstance(identity, form.id_type) or isinstance(identity, bool):
            raise UserError(
                f"{file}: field '{form.id_field}' of {where} is {kind(identity)}; give a record such as "
                f"{form.sample}"
            )
        if isinstance(identity, str) and not is_text(identity):
            raise UserError(f"{file}: field '{form.id_field}' of {where} holds half a character; correct it")
        yield where, str(identity), record[form.value_field], f"field '{form.value_field}' of {where}"


def _check_all_there(file: str | Path, predictions: Collection[str], ids: Collection[str]) -> None:
    missing = [id for id in ids if id not in predictions]
    if missing:
        raise UserError(
            f"{file}: no prediction for {len(missing)} of {len(ids)} examples, first {shown(missing[0])}; "
            "give one for each example of the split"
        )


def kind(value: Any) -> str:
    """The type of a JSON value in words."""
    return KINDS.get(type(value), type(value).__name__)


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
    if file.suffix not in ASKED:
        raise UserError(f"{file}: is no file of records: give one that ends with {', '.join(ASKED)}")
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
