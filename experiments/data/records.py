"""Examples from records in memory: a list of dictionaries, or an object of the library ``datasets``.

A record has the fields of the files that ``attngraph predict --file`` reads and writes: ``image`` (a path, a
PIL image, or the bytes and path of ``datasets.Image(decode=False)``), ``text`` (the question or hypothesis;
not for captions) and ``answer`` (a text or a list of texts: annotators' answers, a label, or captions).
``id`` and ``kind`` may be added. Images in memory become files in the cache folder, named by their content.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from attngraph.experiments.base.reading import Record, Unique, shown
from attngraph.experiments.data.example import Example
from attngraph.experiments.data.hub import picture_file

IMAGE, TEXT, ANSWER = "image", "text", "answer"
ID, KIND = "id", "kind"
WHERE = Path("data")  # names the records in errors
SAVED_AS_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # modes of PIL


def record_examples(records: Iterable[Mapping[str, Any]], with_text: bool) -> list[Example]:
    """The examples of records, in their order.

    Args:
        records: see above. A ``datasets.Dataset`` is read without decoding its images; class labels are read
            by their names.
        with_text: whether the task's prompts have a text.

    Raises:
        UserError: a record lacks a field, has a field of another type, or a duplicate ``id``; or there are no
            records.
    """
    fields = (IMAGE, TEXT, ANSWER) if with_text else (IMAGE, ANSWER)
    remedy = f"each record needs {', '.join(fields)} (rename columns, such as question to {TEXT})"
    records, labels = _undecoded(records)
    ids, examples = Unique(WHERE, ID), []
    for number, content in enumerate(records):
        content = dict(content) if isinstance(content, Mapping) else content
        record = Record(content, WHERE, f"record {number}", remedy)
        answer = record.field(ANSWER, str, list, int) if labels else record.field(ANSWER, str, list)
        if isinstance(answer, int):
            if not 0 <= answer < len(labels):
                raise record.fault(f"field '{ANSWER}' of {record.where} is {answer}, not a class label")
            answer = labels[answer]
        references = (answer.strip(),) if isinstance(answer, str) else record.texts(ANSWER)
        identity = str(record.field(ID, str, int)) if ID in content else str(number)
        ids.add(identity, record.where)
        kind = record.text(KIND) if KIND in content else "record"
        prompt = record.text(TEXT) if with_text else ""
        examples.append(Example(identity, _image(record), prompt, references, kind))
    if not examples:
        raise Record({}, WHERE, "", remedy).fault("there are no records")
    return examples


def _undecoded(records: Iterable[Mapping[str, Any]]) -> tuple[Iterable[Mapping[str, Any]], list[str]]:
    """Records whose images are the bytes of their files, and the names of their answers' class labels."""
    features = getattr(records, "features", None)
    if not isinstance(features, Mapping):
        return records, []
    image = features.get(IMAGE)
    if getattr(image, "decode", False):
        records = records.cast_column(IMAGE, type(image)(decode=False))  # type: ignore[attr-defined]
    return records, list(getattr(features.get(ANSWER), "names", ()))


def _image(record: Record) -> Path:
    value = record.content.get(IMAGE)
    if isinstance(value, Image.Image):
        if value.mode in ("I", "F"):
            raise record.fault(
                f"field '{IMAGE}' of {record.where} has 32-bit values", "convert it to 8 bits per channel"
            )
        return picture_file(_png(value))
    if isinstance(value, Mapping) and value.get("bytes"):
        return picture_file(value["bytes"])
    path = value.get("path") if isinstance(value, Mapping) else value
    if not isinstance(path, (str, Path)) or not str(path):
        raise record.fault(f"field '{IMAGE}' of {record.where} is not an image ({shown(value)})")
    return Path(path)


def _png(image: Image.Image) -> bytes:
    """A file with the same pixels, orientation and transparency."""
    file = BytesIO()
    saved = image if image.mode in SAVED_AS_PNG else image.convert("RGB")
    saved.save(file, "PNG", exif=image.getexif())
    return file.getvalue()
