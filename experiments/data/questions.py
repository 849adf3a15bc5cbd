"""Questions in official files: VQA v2 (Goyal et al. 2017, https://visualqa.org) and VizWiz-VQA (Gurari et al.
2018, https://vizwiz.org), questions of blind people about their photographs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from experiments.base.reading import Damaged, Pictures, Record, records
from experiments.data.captions import KARPATHY_FILE, karpathy_split, vizwiz_file
from experiments.data.dataset import (
    ANNOTATORS,
    Annotation,
    Counts,
    DataSet,
    Fields,
    Reader,
    Reading,
    register,
)
from experiments.data.example import Example
from experiments.data.hub import Hub

# ---- VQA v2 -----------------------------------------------------------------------------------------------

_FIELDS = Fields(
    id="question_id",
    references="answers",
    item="answer",
    annotators=ANNOTATORS,
    prompt="question",
    kind="question",
    kinds="question_type",
    groups={"question type": "question_type", "answer type": "answer_type"},
)
Division = Mapping[int, tuple[str, str]]  # COCO's image id -> Karpathy's split, and the image's folder


class _Part(NamedTuple):
    """The files of one part of VQA v2."""

    questions: Path
    annotations: Path | None
    images: str  # the folder, and the middle of the images' names


class Official(Reader):
    """Question and annotation files, in the official splits."""

    title = "question and annotation files in the official splits"
    splits, unanswered = ("train", "val", "test", "test-dev"), ("test", "test-dev")
    published = {
        "train": Counts(82_783, 443_757),
        "val": Counts(40_504, 214_354),
        "test": Counts(81_434, 447_793),
        "test-dev": Counts(36_807, 107_394),
    }

    def parts(self, root: Path, split: str) -> list[_Part]:
        """What a split is made of."""
        if split in self.unanswered:
            return [_Part(root / f"v2_OpenEnded_mscoco_{split}2015_questions.json", None, "test2015")]
        part = f"{split}2014"
        questions = root / f"v2_OpenEnded_mscoco_{part}_questions.json"
        return [_Part(questions, root / f"v2_mscoco_{part}_annotations.json", part)]

    def files(self, root: Path, split: str) -> list[Path]:
        return [file for part in self.parts(root, split) for file in part[:2] if file is not None]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        return [root / part.images for part in self.parts(root, split)]

    def examples(self, root: Path, split: str, reading: Reading) -> Iterator[Example]:
        for part in self.parts(root, split):
            yield from _examples(part, split, Pictures(root), reading, None)


class Drawn(Official):
    """Drawn scenes in these files, whose test split has annotations too."""

    splits, unanswered = ("train", "val", "test"), ()


class Karpathy(Official):
    """The official train and val questions, divided by the split of their image in ``dataset_coco.json``;
    images of its split ``restval`` belong to ``train``.
    """

    name = "karpathy"
    title = f"question and annotation files, divided by the image's split in {KARPATHY_FILE}"
    splits, unanswered = ("train", "val", "test"), ()
    published = {
        "train": Counts(113_287, 605_102),
        "val": Counts(5_000, 26_729),
        "test": Counts(5_000, 26_280),
    }

    def parts(self, root: Path, split: str) -> list[_Part]:
        return [*super().parts(root, "train"), *super().parts(root, "val")]

    def files(self, root: Path, split: str) -> list[Path]:
        return [root / KARPATHY_FILE, *super().files(root, split)]

    def examples(self, root: Path, split: str, reading: Reading) -> Iterator[Example]:
        file = root / KARPATHY_FILE

        def place(image: Record) -> tuple[int, tuple[str, str]]:
            return image.field("cocoid", int), (karpathy_split(image), image.field("filepath", str))

        division = dict(reading.each(file, records(file, "images"), place, "cocoid"))
        folders = {folder for part, folder in division.values() if part == split}
        for part in self.parts(root, split):
            if part.images in folders:
                yield from _examples(part, split, Pictures(root), reading, division)


def _examples(
    part: _Part, split: str, pictures: Pictures, reading: Reading, division: Division | None
) -> Iterator[Example]:
    """The examples of a part that are of a split, in the order of its question file."""

    def is_ours(image_id: int) -> bool:
        return division is None or division.get(image_id, ("", ""))[0] == split

    def annotation(record: Record) -> tuple[tuple[int, int], Annotation] | None:
        identity, image_id = record.field("question_id", int), record.field("image_id", int)
        return ((identity, image_id), _FIELDS.annotation(record)) if is_ours(image_id) else None

    def example(question: Record) -> Example | None:
        identity, image_id = question.field("question_id", int), question.field("image_id", int)
        if {str(identity), str(image_id)} & reading.lost:
            return None
        if division is not None and image_id not in division:
            about = f"{question.where} is about the cocoid {image_id}"
            raise question.fault(f"{about}, which {KARPATHY_FILE} does not have")
        if not is_ours(image_id):
            return None
        told = annotated.get((identity, image_id))
        if told is None and part.annotations is not None:
            raise Damaged(
                f"{part.annotations}: no annotation with question_id {identity} and image_id {image_id}, "
                f"which {question.where} of {question.file} has; use the files of the same split"
            )
        image = pictures.path(part.images, f"COCO_{part.images}_{image_id:012d}", question)
        return _FIELDS.example(question, image, told)

    annotated: dict[tuple[int, int], Annotation] = {}  # question and image
    if part.annotations is not None:
        found = records(part.annotations, "annotations")
        annotated |= reading.each(part.annotations, found, annotation, "question_id")
    yield from reading.each(part.questions, records(part.questions, "questions"), example, "question_id")


VQA2 = register(
    DataSet(
        "vqa2",
        "VQA v2.0",
        "questions",
        readers=(
            Karpathy(),
            Official(),
            Hub(
                {"val": ("lmms-lab/VQAv2", "validation")},
                _FIELDS,
                published={"val": Official.published["val"]},
            ),
        ),
    )
)

# ---- VizWiz-VQA -------------------------------------------------------------------------------------------


class VizWiz(Reader):
    """``{train,val,test}.json``: a question an image, whose name is the key. An example's kind is the type of
    its answer; the group ``answerable`` says 1 or 0.
    """

    title, unanswered = "{train,val,test}.json", ("test",)
    published = {
        "train": Counts(20_523, 20_523),
        "val": Counts(4_319, 4_319),
        "test": Counts(8_000, 8_000),
    }
    fields = Fields(
        id="image",
        references="answers",
        item="answer",
        annotators=ANNOTATORS,
        prompt="question",
        kind="question",
        kinds="answer_type",
        groups={"answer type": "answer_type", "answerable": "answerable"},
    )

    def files(self, root: Path, split: str) -> list[Path]:
        return [vizwiz_file(root, split)]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        return [root / split]

    def examples(self, root: Path, split: str, reading: Reading) -> Iterator[Example]:
        (file,), pictures = self.files(root, split), Pictures(root)

        def example(record: Record) -> Example:
            image = pictures.path(split, record.text("image"), record)
            annotation = None if split in self.unanswered else self.fields.annotation(record)
            return self.fields.example(record, image, annotation)

        yield from reading.each(file, records(file), example, "image")


VIZWIZ_VQA = register(
    DataSet(
        "vizwiz_vqa",
        "VizWiz-VQA",
        "questions",
        readers=(
            VizWiz(),
            Hub(
                {split: ("lmms-lab/VizWiz-VQA", split) for split in ("val", "test")},
                Fields(
                    id="question_id",
                    references="answers",
                    annotators=ANNOTATORS,
                    prompt="question",
                    kind="question",
                    kinds="category",
                    groups={"answer type": "category"},
                    identity="{}.jpg".format,
                ),
                VizWiz.unanswered,
                VizWiz.published,
            ),
        ),
    )
)
