"""Examples from records: a list of dictionaries, an object of the library ``datasets``, or a file in the
folder of a dataset, ``records/SPLIT.jsonl``.

A record has the fields of the files that ``attngraph predict --file`` reads and writes: ``image`` (a path, a
PIL image, or the bytes and path of ``datasets.Image(decode=False)``), ``text`` (the question or hypothesis;
not for captions) and ``answer`` (a text or a list of texts: annotators' answers, a label, or captions).
``id`` and ``kind`` may be added. Images in memory become files in the cache folder, named by their content.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from attngraph.errors import UserError
from attngraph.experiments.base.files import write_text
from attngraph.experiments.base.messages import first_line
from attngraph.experiments.base.reading import Record, Unique, shown
from attngraph.experiments.base.reading import records as records_of
from attngraph.experiments.data.dataset import OFFICIAL, DataSet, Reader, Reading
from attngraph.experiments.data.example import Example
from attngraph.experiments.data.hub import picture_file

IMAGE, TEXT, ANSWER = "image", "text", "answer"
ID, KIND = "id", "kind"
FOLDER = "records"  # in a data set's folder
WHERE = Path("data")  # names the records in errors
SAVED_AS_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # modes of PIL


def record_examples(
    records: Iterable[Mapping[str, Any]], with_text: bool, answers: tuple[str, ...] = ()
) -> list[Example]:
    """The examples of records, in their order.

    Args:
        records: see above. A ``datasets.Dataset`` is read without decoding its images; class labels are read
            by their names.
        with_text: whether the task's prompts have a text.
        answers: the answers that there are, as labels; none for any.

    Raises:
        UserError: a record lacks a field, has a field of another type, another answer, or a duplicate ``id``;
            or there are no records.
    """
    fields = (IMAGE, TEXT, ANSWER) if with_text else (IMAGE, ANSWER)
    remedy = f"each record needs {', '.join(fields)} (rename columns, such as question to {TEXT})"
    records, labels = _undecoded(records)
    ids, examples = Unique(WHERE, ID), []
    for number, content in enumerate(records):
        content = dict(content) if isinstance(content, Mapping) else content
        if isinstance(content, dict):
            content.setdefault(ID, number)
            if labels and type(place := content.get(ANSWER)) is int and 0 <= place < len(labels):
                content[ANSWER] = labels[place]
        record = Record(content, WHERE, f"record {number}", remedy)
        examples.append(_example(record, with_text, answers))
        ids.add(examples[-1].id, record.where)
    if not examples:
        raise Record({}, WHERE, "", remedy).fault("there are no records")
    return examples


def _example(record: Record, with_text: bool, answers: tuple[str, ...]) -> Example:
    answer = record.field(ANSWER, str, list)
    references = (record.text(ANSWER).strip(),) if isinstance(answer, str) else record.texts(ANSWER)
    if answers and references[0] not in answers:
        raise record.fault(
            f"field '{ANSWER}' of {record.where} is {shown(references[0])}", f"give {', '.join(answers)}"
        )
    kind = record.text(KIND) if KIND in record.content else "record"
    prompt = record.text(TEXT) if with_text else ""
    return Example(str(record.field(ID, str, int)), _image(record), prompt, references, kind)


class Records(Reader):
    """Records on the lines of a file for each split. Their images are paths, absolute or relative to the
    folder of the dataset.

    Args:
        with_text: whether they have a text.
        answers: the answers that there are, as labels; none for any.
    """

    name, title = "records", "records/{train,val,test}.jsonl: image, text (not of captions), answer, id"

    def __init__(self, with_text: bool, answers: tuple[str, ...] = ()):
        self.with_text, self.answers = with_text, answers

    def files(self, root: Path, split: str) -> list[Path]:
        return [root / FOLDER / f"{split}.jsonl"]

    def examples(self, split: str, reading: Reading) -> Iterator[Example]:
        def example(record: Record) -> Example:
            found = _example(record, self.with_text, self.answers)
            return replace(found, image=reading.root / found.image)

        (file,) = self.files(reading.root, split)
        yield from reading.each(file, records_of(file), example, ID)


def write_records(
    data: Mapping[str, Iterable[Mapping[str, Any]]],
    data_set: DataSet,
    with_text: bool,
    answers: tuple[str, ...],
    folder: Path,
) -> None:
    """Write records by split as the files of a dataset in a folder of datasets.

    Raises:
        UserError: a split is missing, or see :func:`record_examples`.
    """
    if missing := [name for name in OFFICIAL if name not in data]:
        raise UserError(f"the records have no split {missing[0]!r}: pass {', '.join(OFFICIAL)}")
    texts = {}
    for name, split in OFFICIAL.items():
        lines = [
            {
                ID: one.id,
                IMAGE: str(one.image.absolute()),
                TEXT: one.prompt,
                ANSWER: list(one.references),
                KIND: one.kind,
            }
            for one in record_examples(data[name], with_text, answers)
        ]
        file = folder / data_set.name / FOLDER / f"{split}.jsonl"
        texts[file] = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    if other := [file for file, text in texts.items() if file.exists() and file.read_text("utf-8") != text]:
        raise UserError(f"{other[0]} holds other records, which finished runs may need: use another out")
    for file, text in texts.items():
        write_text(file, text)


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
        try:
            return picture_file(_png(value))
        except OSError as error:  # its file is opened, but not read yet
            raise record.fault(
                f"field '{IMAGE}' of {record.where} cannot be decoded ({first_line(error)})"
            ) from error
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
