"""Predictions are written and read whole: each example of a split has exactly one, or there is an error."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from experiments.datasets.reading import Unique, is_text, read_json, read_text, shown
from experiments.files import write_json
from experiments.predictions.format import Format, kind

BOM = b"\xef\xbb\xbf"


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
    records = []
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
        records.append(record)
    return write_json(file, records, indent=None)


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
