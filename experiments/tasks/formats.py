"""Files of predictions in the formats that evaluation servers take, and files that ask about pictures.

Predictions are written and read whole: each example of a split has exactly one, or there is an error. A task
names its format (:attr:`attngraph.experiments.tasks.Task.file_format`):

- :data:`VQA_RESULTS`: ``[{"question_id": 1000, "answer": "yes"}]``, as VQA v2's server and its evaluator take
  them. The server wants an answer to every question of ``test2015`` (447,793), for ``test-dev`` too.
- :data:`VIZWIZ`: ``[{"image": "VizWiz_val_00000000.jpg", "answer": "yes"}]``: VizWiz's annotations have no
  question ids, the name of the image's file is the key.
- :data:`SNLI_VE`: ``[{"pairID": "1.jpg#0r1e", "label": "neutral"}]``. There is no evaluation server: the
  fields have their names in the annotations. A generated text that names no label is written as ``-``, the
  annotations' mark for a pair without one; it is wrong for every pair.
- :data:`CAPTIONS`: ``[{"image_id": 42, "caption": "a red ball"}]``, as the servers of COCO and VizWiz and
  pycocoevalcap take them; :data:`TEXTCAPS` has ids that are texts of 16 hexadecimal digits.
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
    """A list of records with the id of an example and the text that was generated for it.

    Args:
        name: as messages call such files.
        id_field: the field that names the example.
        id_type: ``int`` or ``str``, as the data's annotations have it.
        value_field: the field with the prediction.
        labelled: whether it is the label that the text names.
    """

    name: str
    id_field: str
    id_type: type
    value_field: str
    labelled: bool = False

    def value(self, prediction: str) -> str:
        """What the file holds of a model's prediction, such as the label of "correct", entailment."""
        return (named_label(prediction) or NO_LABEL) if self.labelled else prediction


VQA_RESULTS = Format("VQA v2 results", "question_id", int, "answer")
VIZWIZ = Format("VizWiz-VQA results", "image", str, "answer")
SNLI_VE = Format("SNLI-VE labels", "pairID", str, "label", labelled=True)
CAPTIONS = Format("COCO caption results", "image_id", int, "caption")
TEXTCAPS = Format("TextCaps results", "image_id", str, "caption")
PLAIN = Format("answers", "id", str, "answer")


def write_predictions(
    file: str | Path, form: Format, predictions: Mapping[str, str], ids: Collection[str]
) -> Path:
    """Writes a file of predictions, whole or not at all; returns its path.

    Args:
        file: an older one is replaced.
        predictions: example id -> what a model said.
        ids: of all examples of the split, in the order of the file.

    Raises:
        UserError: an id cannot be written in the format; nothing is written then.
    """
    if form.id_type is int and (wrong := [id for id in ids if not (id.isascii() and id.isdigit())]):
        raise UserError(
            f"{file}: the example {shown(wrong[0])} cannot be in a file of {form.name}, whose "
            f"'{form.id_field}' is a whole number; take the format of this data set"
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

    A record may have more fields than the format's two. An object ``{"<example id>": "<text>"}``, as
    ``attngraph ablation`` leaves it in ``predictions.json`` of a run, is read too.

    Args:
        ids: of all examples of the split.
        allow_empty: whether a text may be empty.
        unscored: ids of what the official evaluation leaves out, and of damaged records; nobody looks at
            them.

    Raises:
        UserError: the file is missing or not JSON; or it lacks an example, has one twice or one that the
            split does not have, or a value of the wrong type.
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
                f"{file}: {record.where} is about {form.id_field} {shown(id)}, which these data do not have; "
                "give predictions for the same data and split (--split)"
            )
        if form.labelled:
            found[id] = record.one_of(form.value_field, (*ENTAILMENT_WORDS, NO_LABEL))
            continue
        found[id] = record.field(form.value_field, str)
        if not allow_empty and not found[id].strip():
            raise record.fault(
                f"field '{form.value_field}' of {record.where} is empty",
                "write an answer, or allow empty ones (--allow-empty), which evaluators score too",
            )
    if missing := [id for id in ids if id not in found]:
        raise UserError(
            f"{file}: no prediction for {len(missing)} of {len(ids)} examples, first {shown(missing[0])}; "
            "give one for each example of the split"
        )
    return {id: found[id] for id in ids}


def _entries(file: Path, form: Format) -> Iterator[tuple[str, Record]]:
    """Each record with its example's id."""
    sample = json.dumps({form.id_field: 1000 if form.id_type is int else "...", form.value_field: "..."})
    content, remedy = read_json(file), f"give {form.name}, a list of records such as {sample}"
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
    """The records of a file that asks about pictures: ``.json`` (a list of objects) or ``.jsonl``, with the
    fields ``image`` and, where the task has texts, ``text``.

    Raises:
        UserError: the file is missing or of another kind, or a record lacks a field.
    """
    if file.suffix not in ASKED:
        raise UserError(f"{file}: is no file of records; give one that ends with {' or '.join(ASKED)}")
    fields = (IMAGE, TEXT) if with_text else (IMAGE,)
    asks = []
    for where, content in records(file):
        record = Record(content, file, where, f"give each record {' and '.join(fields)}")
        for name in fields:
            record.text(name)
        for name in (ANSWER, TEXT):
            if name not in fields and content.get(name):
                raise record.fault(f"{where} has a field '{name}'", "leave it out for this task")
        asks.append(content)
    if not asks:
        raise UserError(f"{file}: holds no records; write one for each picture, with {' and '.join(fields)}")
    return asks
