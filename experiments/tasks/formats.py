"""Files of predictions in the formats of evaluation servers, and files of questions about images.

Files of predictions must be complete: each example of a split has exactly one prediction. Each task defines
its format (:attr:`attngraph.experiments.tasks.Task.file_format`):

- :data:`VQA_RESULTS`: ``[{"question_id": 1000, "answer": "yes"}]``, for VQA v2's server and its evaluator.
  The server requires an answer to every question of ``test2015`` (447,793), for ``test-dev``, too.
- :data:`VIZWIZ`: ``[{"image": "VizWiz_val_00000000.jpg", "answer": "yes"}]``: VizWiz's annotations have no
  question ids; the name of the image file is the key.
- :data:`SNLI_VE`: ``[{"pairID": "1.jpg#0r1e", "label": "neutral"}]``. There is no evaluation server: the
  fields have the names of the annotations. A generated text without a label is written as ``-``, the
  annotations' mark for a pair without a label; it is wrong for every pair.
- :data:`CAPTIONS`: ``[{"image_id": 42, "caption": "a red ball"}]``, for the servers of COCO and VizWiz and
  for pycocoevalcap; the ids of :data:`TEXTCAPS` are texts of 16 hexadecimal digits.
- :data:`PLAIN`: ``[{"id": "test-0", "answer": "yes"}]``, for all other tasks
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from attngraph.experiments.base.files import write_json
from attngraph.experiments.base.reading import Record, Unique, read_json, records, shown
from attngraph.experiments.data.records import ANSWER, IMAGE, TEXT
from attngraph.experiments.metrics.exact import ENTAILMENT_WORDS, named_label

NO_LABEL = "-"
ASKED = (".json", ".jsonl")


@dataclass(frozen=True)
class Format:
    """A list of records with the id of an example and the text generated for it.

    Args:
        name: name of the format in messages.
        id_field: the field with the example's id.
        id_type: ``int`` or ``str``, as in the annotations.
        value_field: the field with the prediction.
        labels: the labels that a prediction can name; none if it is a text.
    """

    name: str
    id_field: str
    id_type: type
    value_field: str
    labels: tuple[str, ...] = ()

    def value(self, prediction: str) -> str:
        """The value in the file for a model's prediction, such as the label entailment for "correct"."""
        return (named_label(prediction) or NO_LABEL) if self.labels else prediction


VQA_RESULTS = Format("VQA v2 results", "question_id", int, "answer")
VIZWIZ = Format("VizWiz-VQA results", "image", str, "answer")
SNLI_VE = Format("SNLI-VE labels", "pairID", str, "label", labels=tuple(ENTAILMENT_WORDS))
CAPTIONS = Format("COCO caption results", "image_id", int, "caption")
TEXTCAPS = Format("TextCaps results", "image_id", str, "caption")
PLAIN = Format("answers", "id", str, "answer")


def write_predictions(
    file: str | Path, form: Format, predictions: Mapping[str, str], ids: Collection[str]
) -> Path:
    """Write a file of predictions, completely or not at all; returns its path.

    Args:
        file: the file; an existing file is replaced.
        predictions: example id -> the model's text.
        ids: ids of all examples of the split, in the order of the file.

    Raises:
        UserError: an id cannot be written in the format; nothing is written in this case.
    """
    if form.id_type is int and (wrong := [id for id in ids if not (id.isascii() and id.isdigit())]):
        raise UserError(
            f"{file}: the example {shown(wrong[0])} cannot be in a file of {form.name}, whose "
            f"'{form.id_field}' is an integer; use the format of this dataset"
        )
    content = [{form.id_field: form.id_type(id), form.value_field: form.value(predictions[id])} for id in ids]
    return write_json(file, content, indent=None)


def read_predictions(
    file: str | Path,
    form: Format,
    ids: Collection[str],
    allow_empty: bool = False,
    unscored: Collection[str] = (),
) -> dict[str, str]:
    """The predictions of a file: example id -> value, in the order of ``ids``.

    Records may have further fields. An object ``{"<example id>": "<text>"}``, as in ``predictions.json`` of a
    run, is accepted, too.

    Args:
        ids: ids of all examples of the split.
        allow_empty: whether a text may be empty.
        unscored: ids of records that the official evaluation excludes, and of damaged records; these are
            ignored.

    Raises:
        UserError: the file is missing or not JSON; or an example is missing, duplicate, or not in the split,
            or a value has the wrong type.
    """
    file = Path(file)
    known, seen = frozenset(ids), Unique(file, form.id_field)
    found = {}
    for id, record in _entries(file, form):
        seen.add(id, record.where)
        if id in unscored:
            continue
        if id not in known:
            raise UserError(
                f"{file}: {record.where} is about {form.id_field} {shown(id)}, which is not in these data; "
                "use predictions for the same data and split (--split)"
            )
        if form.labels:
            found[id] = record.one_of(form.value_field, (*form.labels, NO_LABEL))
            continue
        found[id] = record.field(form.value_field, str)
        if not allow_empty and not found[id].strip():
            raise record.fault(
                f"field '{form.value_field}' of {record.where} is empty",
                "add an answer, or allow empty ones (--allow-empty), which evaluators score, too",
            )
    if missing := [id for id in ids if id not in found]:
        raise UserError(
            f"{file}: no prediction for {len(missing)} of {len(ids)} examples, first {shown(missing[0])}; "
            "provide one for each example of the split"
        )
    return {id: found[id] for id in ids}


def _entries(file: Path, form: Format) -> Iterator[tuple[str, Record]]:
    """Each record with its example's id."""
    sample = json.dumps({form.id_field: 1000 if form.id_type is int else "...", form.value_field: "..."})
    content, remedy = read_json(file), f"use {form.name}, a list of records such as {sample}"
    if isinstance(content, dict):
        for id, text in content.items():
            value = form.value(text) if isinstance(text, str) else text
            yield id, Record({form.value_field: value}, file, f"the entry {shown(id)}", remedy)
    elif isinstance(content, list):
        for number, one in enumerate(content):
            record = Record(one, file, f"[{number}]", remedy)
            yield str(record.field(form.id_field, form.id_type)), record
    else:
        raise UserError(f"{file}: the file is {type(content).__name__}, not a list; {remedy}")


def read_asks(file: Path, with_text: bool) -> list[dict[str, Any]]:
    """The records of a file of questions about images: ``.json`` (a list of objects) or ``.jsonl``, with the
    fields ``image`` and, if the task has texts, ``text``.

    Raises:
        UserError: the file is missing or of another type, or a record lacks a field.
    """
    if file.suffix not in ASKED:
        raise UserError(f"{file}: is not a file of records; use a file that ends with {' or '.join(ASKED)}")
    fields = (IMAGE, TEXT) if with_text else (IMAGE,)
    asks = []
    for where, content in records(file):
        record = Record(content, file, where, f"each record needs {' and '.join(fields)}")
        for name in fields:
            record.text(name)
        for name in (ANSWER, TEXT):
            if name not in fields and content.get(name):
                raise record.fault(f"{where} has a field '{name}'", "remove it for this task")
        asks.append(content)
    if not asks:
        raise UserError(f"{file}: has no records; add one for each image, with {' and '.join(fields)}")
    return asks
