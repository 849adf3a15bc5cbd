"""VQA v2 (Goyal et al. 2017, https://visualqa.org): its files in the official and the Karpathy split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from sys import intern
from typing import NamedTuple

from experiments.base.reading import Damaged, Pictures, Record, records
from experiments.data.coco import COCO_TRAIN, COCO_VAL, KARPATHY, KARPATHY_FILE, KARPATHY_SPLITS
from experiments.data.damaged import Reading
from experiments.data.dataset import ANNOTATORS, Counts, DataSet, Reader, register
from experiments.data.example import Example
from experiments.data.hub import Columns, Hub

_AMAZON = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
_COUNTS = {
    "train": Counts(113_287, 605_102),
    "val": Counts(5_000, 26_729),
    "test": Counts(5_000, 26_280),
}


class _Annotation(NamedTuple):
    """What a question's annotation says, and where it stands in its file."""

    where: str
    image_id: int
    kind: str
    answer_type: str
    answers: tuple[str, ...]


class _Part(NamedTuple):
    """The files of one part of VQA v2."""

    questions: Path
    annotations: Path | None
    images: str  # the folder, and the middle of the images' names


class Official(Reader):
    """Question and annotation files, in the official splits."""

    name, title = "official", "question and annotation files in the official splits"
    splits = ("train", "val", "test", "test-dev")
    unanswered = ("test", "test-dev")
    published = {
        "train": Counts(82_783, 443_757),
        "val": Counts(40_504, 214_354),
        "test": Counts(81_434, 447_793),
        "test-dev": Counts(36_807, 107_394),
    }

    def parts(self, root: Path, split: str) -> list[_Part]:
        """What a split is made of."""
        if split in self.unanswered:
            file = root / f"v2_OpenEnded_mscoco_{split}2015_questions.json"
            return [_Part(file, None, "test2015")]
        return [
            _Part(
                root / f"v2_OpenEnded_mscoco_{split}2014_questions.json",
                root / f"v2_mscoco_{split}2014_annotations.json",
                f"{split}2014",
            )
        ]

    def files(self, root: Path, split: str) -> list[Path]:
        return [file for part in self.parts(root, split) for file in part[:2] if file is not None]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        return [root / part.images for part in self.parts(root, split)]

    def examples(self, root: Path, split: str, reading: Reading) -> Iterator[Example]:
        for part in self.parts(root, split):
            yield from _examples(part, Pictures(root), reading)


class Drawn(Official):
    """Drawn scenes in these files, whose test split has annotations too."""

    splits, unanswered = ("train", "val", "test"), ()


class Karpathy(Official):
    """The official train and val questions, divided by the split of their image in ``dataset_coco.json``;
    images of its split ``restval`` belong to ``train``.
    """

    name, title = (
        "karpathy",
        f"question and annotation files, divided by the image's split in {KARPATHY_FILE}",
    )
    splits, unanswered = ("train", "val", "test"), ()
    published = _COUNTS

    def parts(self, root: Path, split: str) -> list[_Part]:
        return [part for half in ("train", "val") for part in super(Karpathy, self).parts(root, half)]

    def files(self, root: Path, split: str) -> list[Path]:
        return [root / KARPATHY_FILE, *super().files(root, split)]

    def examples(self, root: Path, split: str, reading: Reading) -> Iterator[Example]:
        division = _Division(root / KARPATHY_FILE, split, reading)
        for part in self.parts(root, split):
            if part.images in division.folders:
                yield from _examples(part, Pictures(root), reading, division)


class _Division:
    """Which of Karpathy's splits an image belongs to, as ``dataset_coco.json`` says.

    Args:
        file: that file.
        split: the one that is read.
        reading: knows what is left out.

    Attributes:
        folders: that hold the split's images.
    """

    def __init__(self, file: Path, split: str, reading: Reading):
        self.file, self.split, self.folders = file, split, set()
        self._split_of: dict[int, str] = {}
        self._lost: set[int] = set()
        for identity, part, folder in reading.each(
            file, records(file, "images"), self._image, "cocoid", self._lost
        ):
            self._split_of[identity] = part
            if part == split:
                self.folders.add(folder)

    def holds(self, image_id: int, question: Record) -> bool:
        """Whether an image is of the split that is read.

        Raises:
            Damaged: the file does not have it.
        """
        if image_id not in self._split_of and image_id not in self._lost:
            raise Damaged(
                f"{self.file}: no image with cocoid {image_id}, which {question.where} of {question.file} is "
                "about; give the official file"
            )
        return self._split_of.get(image_id) == self.split

    @staticmethod
    def _image(image: Record) -> tuple[int, str, str]:
        part = KARPATHY_SPLITS[image.one_of("split", tuple(KARPATHY_SPLITS))]
        return image.field("cocoid", int), part, image.field("filepath", str)


def _examples(
    part: _Part,
    pictures: Pictures,
    reading: Reading,
    division: _Division | None = None,
) -> Iterator[Example]:
    """The examples of a part, in the order of its question file."""
    lost: set[int] = set()  # annotations
    unasked: set[int] = set()  # questions
    annotated = _annotations(part.annotations, reading, division, lost)

    def example(question: Record) -> Example | None:
        identity, image_id = question.field("question_id", int), question.field("image_id", int)
        if division is not None and not division.holds(image_id, question):
            return None
        kind, groups, answers = "question", {}, ()
        if part.annotations is not None:
            if identity in lost:
                return None
            if identity not in annotated:
                raise Damaged(
                    f"{part.annotations}: no annotation with question_id {identity}, which {question.where} "
                    f"of {question.file} has; use the annotation file of the same split"
                )
            annotation = annotated[identity]
            if annotation.image_id != image_id:
                raise Damaged(
                    f"{part.annotations}: {annotation.where} has the image_id {annotation.image_id}, but "
                    f"{question.where} of {question.file}, with the same question_id, has {image_id}; "
                    "use the files of the same split"
                )
            kind, answers = annotation.kind, annotation.answers
            groups = {"question type": kind, "answer type": annotation.answer_type}
        text = question.text("question")
        image = pictures.path(part.images, f"COCO_{part.images}_{image_id:012d}", question)
        return Example(str(identity), image, text, answers, kind, groups=groups)

    file, asked = part.questions, set()
    for one in reading.each(file, records(file, "questions"), example, "question_id", unasked):
        asked.add(int(one.id))
        yield one
    for identity, left in annotated.items():
        if identity not in asked and identity not in unasked:
            error = Damaged(
                f"{part.annotations}: {left.where} has the question_id {identity}, which no question "
                f"of {file} has; use the question file of the same split"
            )
            reading.fault(part.annotations, left.where, error)


def _annotations(
    file: Path | None, reading: Reading, division: _Division | None, lost: set[int]
) -> dict[int, _Annotation]:
    """Question id -> annotation; with a division, of its split alone."""
    if file is None:
        return {}

    def annotation(record: Record) -> tuple[int, _Annotation] | None:
        identity, image_id = record.field("question_id", int), record.field("image_id", int)
        if division is not None and not division.holds(image_id, record):
            return None
        kind, answer_type = (
            intern(record.field("question_type", str)),
            intern(record.field("answer_type", str)),
        )
        answers = tuple(
            map(intern, record.texts("answers", "answer", ANNOTATORS))
        )  # few are said to many questions
        return identity, _Annotation(record.where, image_id, kind, answer_type, answers)

    return dict(reading.each(file, records(file, "annotations"), annotation, "question_id", lost))


_HUB = Hub(
    {"val": ("lmms-lab/VQAv2", "validation")},
    Columns(
        id="question_id",
        references="answers",
        item="answer",
        annotators=ANNOTATORS,
        prompt="question",
        kinds="question_type",
        groups={"question type": "question_type", "answer type": "answer_type"},
    ),
    published={"val": Official.published["val"]},
)


class Vqa2(DataSet):
    """VQA v2."""

    name, title, unit = "vqa2", "VQA v2.0", "questions"
    readers = (Karpathy(), Official(), _HUB)
    homepage = "https://visualqa.org"
    licence = (
        "annotations CC BY 4.0 (VQA Consortium); the images' copyright stays with their owners on Flickr, "
        "see https://cocodataset.org/#termsofuse"
    )
    citation = (
        "Goyal, Khot, Summers-Stay, Batra and Parikh (2017): Making the V in VQA Matter: Elevating the Role "
        "of Image Understanding in Visual Question Answering. CVPR."
    )
    contents = (
        (
            "v2_OpenEnded_mscoco_{train2014,val2014}_questions.json",
            "questions",
            f"{_AMAZON}/v2_Questions_{{Train,Val}}_mscoco.zip",
        ),
        (
            "v2_mscoco_{train2014,val2014}_annotations.json",
            "ten answers to each of them",
            f"{_AMAZON}/v2_Annotations_{{Train,Val}}_mscoco.zip",
        ),
        (
            "v2_OpenEnded_mscoco_{test2015,test-dev2015}_questions.json",
            "questions without answers",
            f"{_AMAZON}/v2_Questions_Test_mscoco.zip",
        ),
        (KARPATHY_FILE, "Karpathy's splits; without it, the official ones", KARPATHY),
        COCO_TRAIN,
        COCO_VAL,
        (
            "test2015/",
            "COCO_test2015_000000000001.jpg and 81,433 more",
            "http://images.cocodataset.org/zips/test2015.zip",
        ),
    )


VQA2 = register(Vqa2())
