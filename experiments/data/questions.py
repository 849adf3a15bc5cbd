"""Questions in official files: VQA v2 (Goyal et al. 2017, https://visualqa.org) and VizWiz-VQA (Gurari et al.
2018, https://vizwiz.org), questions of blind people about their photographs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attngraph.experiments.base.reading import Damaged, Record, records
from attngraph.experiments.data.captions import KARPATHY_FILE, karpathy_split, vizwiz_file
from attngraph.experiments.data.dataset import ANNOTATORS, Counts, DataSet, Fields, Reader, Reading, register
from attngraph.experiments.data.example import Example
from attngraph.experiments.data.hub import Hub
from attngraph.experiments.data.records import Records

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

    def parts(self, split: str) -> list[str]:
        """The parts of COCO in a split, by their names in the files."""
        return [f"{split}2015" if split in self.unanswered else f"{split}2014"]

    def files(self, root: Path, split: str) -> list[Path]:
        names = ["v2_OpenEnded_mscoco_{}_questions.json", "v2_mscoco_{}_annotations.json"]
        names = names[:1] if split in self.unanswered else names
        return [root / name.format(part) for part in self.parts(split) for name in names]

    def division(self, reading: Reading) -> dict[int, str | None] | None:
        """COCO's image id -> the split of its questions, None for a skipped record; None if each part is one
        split.
        """
        return None

    def examples(self, split: str, reading: Reading) -> Iterator[Example]:
        division = self.division(reading)
        for part in self.parts(split):
            yield from self._part(part, split, reading, division)

    def _part(
        self, part: str, split: str, reading: Reading, division: dict[int, str | None] | None
    ) -> Iterator[Example]:
        """The examples of a part that belong to a split, in the order of its question file."""
        asked, *answered = (file for file in self.files(reading.root, split) if f"_{part}_" in file.name)
        folder = part.replace("-dev", "")

        def is_ours(image_id: int) -> bool:
            return division is None or division.get(image_id) == split

        def annotation(record: Record) -> tuple[tuple[int, int], dict[str, Any]] | None:
            identity, image_id = record.field("question_id", int), record.field("image_id", int)
            return ((identity, image_id), _FIELDS.annotation(record)) if is_ours(image_id) else None

        def example(question: Record) -> Example | None:
            identity, image_id = question.field("question_id", int), question.field("image_id", int)
            if str(identity) in reading.lost:
                return None
            if division is not None and image_id not in division:
                about = f"{question.where} is about the cocoid {image_id}"
                raise question.fault(f"{about}, which is not in {KARPATHY_FILE}")
            if division is not None and division[image_id] is None:
                reading.lost.add(str(identity))
                return None
            if not is_ours(image_id):
                return None
            told = annotated.get((identity, image_id))
            if told is None and answered:
                raise Damaged(
                    f"{answered[0]}: no annotation with question_id {identity} and image_id {image_id}, "
                    f"as required by {question.where} of {question.file}; use the files of the same split"
                )
            image = reading.pictures.path(folder, f"COCO_{folder}_{image_id:012d}", question)
            return _FIELDS.example(question, image, told)

        annotated: dict[tuple[int, int], dict[str, Any]] = {}  # question and image
        for file in answered:
            annotated |= reading.each(file, records(file, "annotations"), annotation, "question_id")
        yield from reading.each(asked, records(asked, "questions"), example, "question_id")


class Drawn(Official):
    """Synthetic scenes in these files, whose test split has annotations, too."""

    splits, unanswered = ("train", "val", "test"), ()


class Karpathy(Official):
    """The official train and val questions, divided by the split of their image in ``dataset_coco.json``;
    images of its split ``restval`` belong to ``train``, those of all but ``train`` are of val2014.
    """

    name = "karpathy"
    title = f"question and annotation files, divided by the image's split in {KARPATHY_FILE}"
    splits, unanswered = ("train", "val", "test"), ()
    published = {
        "train": Counts(113_287, 605_102),
        "val": Counts(5_000, 26_729),
        "test": Counts(5_000, 26_280),
    }

    def parts(self, split: str) -> list[str]:
        return ["train2014", "val2014"] if split == "train" else ["val2014"]

    def files(self, root: Path, split: str) -> list[Path]:
        return [root / KARPATHY_FILE, *super().files(root, split)]

    def division(self, reading: Reading) -> dict[int, str | None]:
        def place(image: Record) -> tuple[int, str]:
            return image.field("cocoid", int), karpathy_split(image)

        file = reading.root / KARPATHY_FILE
        division: dict[int, str | None] = dict(reading.each(file, records(file, "images"), place, "cocoid"))
        division |= {int(image): None for image in reading.lost if image.isdecimal()}
        reading.lost.clear()  # these are not ids of questions
        return division


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
            Records(with_text=True),
        ),
    )
)

# ---- VizWiz-VQA -------------------------------------------------------------------------------------------


class VizWiz(Reader):
    """``{train,val,test}.json``: one question for each image, whose name is the key. An example's kind is the
    type of its answer; the group ``answerable`` is 1 or 0.
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

    def examples(self, split: str, reading: Reading) -> Iterator[Example]:
        def example(record: Record) -> Example:
            image = reading.pictures.path(split, record.text("image"), record)
            annotation = None if split in self.unanswered else self.fields.annotation(record)
            return self.fields.example(record, image, annotation)

        (file,) = self.files(reading.root, split)
        yield from reading.each(file, records(file), example, "image")


register(
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
            Records(with_text=True),
        ),
    )
)
