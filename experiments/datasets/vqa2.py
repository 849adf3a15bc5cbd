"""VQA v2 (Goyal et al. 2017, https://visualqa.org): its files in the official and the Karpathy split."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from sys import intern
from typing import NamedTuple

from attngraph.errors import UserError
from experiments.datasets.archives import COCO_TEST, COCO_TRAIN, COCO_VAL, KARPATHY, KARPATHY_FILE
from experiments.datasets.dataset import Archive, Counts, DataSet, Reader, register
from experiments.datasets.example import Example
from experiments.datasets.faults import Faults
from experiments.datasets.hub import Columns, Hub
from experiments.datasets.pictures import Pictures
from experiments.datasets.question_files import ANNOTATORS, answers, number
from experiments.datasets.reading import Unique, field, read_json, shown, text_field
from experiments.datasets.streams import records
from experiments.datasets.vqa2_lists import BLIP, KARPATHY_COUNTS, VLT5, PAdapter
from experiments.metrics.vqa import FEWEST_ANSWERS

_AMAZON = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
_SPLIT_OF = {"train": "train", "restval": "train", "val": "val", "test": "test"}


class _Annotation(NamedTuple):
    """What a question's annotation says, and where it stands in its file. Of other splits' only the place and
    the image are kept.
    """

    where: str
    image_id: int
    kind: str = ""
    answer_type: str = ""
    answers: tuple[str, ...] = ()


class _Sources(NamedTuple):
    """The files of one part of VQA v2."""

    questions: Path
    annotations: Path | None
    images: str  # the folder, and the middle of the images' names


def load(questions_file: Path, annotations_file: Path, image_folder: Path) -> list[Example]:
    """The examples of one pair of files in the format of VQA v2, in the order of the question file.

    Args:
        questions_file: ``v2_OpenEnded_mscoco_*_questions.json``.
        annotations_file: ``v2_mscoco_*_annotations.json`` for the same questions; four answers are enough.
        image_folder: holds ``COCO_<subtype>_<image id in 12 digits>`` as .jpg or .png; ``<subtype>`` is the
            question file's ``data_subtype``.

    Raises:
        UserError: a file, field or image is missing or damaged, there are no questions, one is empty, two
            share a ``question_id``, or questions and annotations are not about the same images.
    """
    questions_file, image_folder = Path(questions_file), Path(image_folder)
    subtype = field(read_json(questions_file), "data_subtype", str, questions_file, "the file")
    sources = _Sources(questions_file, Path(annotations_file), image_folder.name)
    pictures = Pictures(image_folder.parent)
    read = _examples(sources, pictures, Faults(), least=FEWEST_ANSWERS, subtype=str(subtype))
    examples = [replace(example, groups={}) for example in read]
    if not examples:
        raise UserError(f"{questions_file}: field 'questions' is empty; give the official file")
    return examples


class Official(Reader):
    """Question and annotation files, in the official splits."""

    name, title = "official", "question and annotation files in the official splits"
    splits = ("train", "val", "trainval", "test", "test-dev")
    unanswered = ("test", "test-dev")
    published = {
        "train": Counts(82_783, 443_757),
        "val": Counts(40_504, 214_354),
        "trainval": Counts(123_287, 658_111),
        "test": Counts(81_434, 447_793),
        "test-dev": Counts(36_807, 107_394),
    }

    def sources(self, root: Path, split: str) -> list[_Sources]:
        """The parts that a split is made of."""
        if split in self.unanswered:
            name = "test2015" if split == "test" else "test-dev2015"
            return [_Sources(root / f"v2_OpenEnded_mscoco_{name}_questions.json", None, "test2015")]
        parts = {"train": ["train2014"], "val": ["val2014"]}.get(split, ["train2014", "val2014"])
        return [
            _Sources(
                root / f"v2_OpenEnded_mscoco_{part}_questions.json",
                root / f"v2_mscoco_{part}_annotations.json",
                part,
            )
            for part in parts
        ]

    def files(self, root: Path, split: str) -> list[Path]:
        return [file for part in self.sources(root, split) for file in part[:2] if file is not None]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        return [root / part.images for part in self.sources(root, split)]

    def examples(self, root: Path, split: str, faults: Faults) -> Iterator[Example]:
        pictures = Pictures(root)
        for part in self.sources(root, split):
            yield from _examples(part, pictures, faults)


class Karpathy(Official):
    """The official train and val questions, divided by the split of their image in ``dataset_coco.json``;
    images of its split ``restval`` belong to ``train``.
    """

    name, title = (
        "karpathy",
        f"question and annotation files, divided by the image's split in {KARPATHY_FILE}",
    )
    splits, unanswered = ("train", "val", "test"), ()
    published = KARPATHY_COUNTS

    def sources(self, root: Path, split: str) -> list[_Sources]:
        return super().sources(root, "trainval")

    def files(self, root: Path, split: str) -> list[Path]:
        return [root / KARPATHY_FILE, *super().files(root, split)]

    def examples(self, root: Path, split: str, faults: Faults) -> Iterator[Example]:
        pictures, division = Pictures(root), _division(root / KARPATHY_FILE, split, faults)
        for part in self.sources(root, split):
            if part.images in division.folders:
                yield from _examples(part, pictures, faults, division)


class _Division(NamedTuple):
    """Which split an image belongs to, the one that is read, and the folders that hold its images."""

    file: Path
    split_of: Mapping[int, str]
    split: str
    folders: Collection[str]


def _division(file: Path, wanted: str, faults: Faults) -> _Division:
    """How ``dataset_coco.json`` divides the images."""
    found: dict[int, str] = {}
    folders = set()
    for where, image in records(file, "images"):
        with faults.leave_out():
            split = str(field(image, "split", str, file, where))
            if split not in _SPLIT_OF:
                raise UserError(
                    f"{file}: field 'split' of {where} is {shown(split)}; give one of {', '.join(_SPLIT_OF)}"
                )
            identity = number(image, "cocoid", file, where)
            if found.setdefault(identity, _SPLIT_OF[split]) != _SPLIT_OF[split]:
                raise UserError(
                    f"{file}: {where} has the cocoid {shown(identity)}, which an earlier image has in "
                    "another split; give the official file"
                )
            folder = str(field(image, "filepath", str, file, where))
            if _SPLIT_OF[split] == wanted:
                folders.add(folder)
    return _Division(file, found, wanted, folders)


def _examples(
    part: _Sources,
    pictures: Pictures,
    faults: Faults,
    division: _Division | None = None,
    least: int = ANNOTATORS,
    subtype: str | None = None,
) -> Iterator[Example]:
    """The examples of a part, in the order of its question file."""
    file, annotated = part.questions, _annotations(part.annotations, faults, division, least)
    ids, where = Unique(file, "question_id"), ""
    for where, question in records(file, "questions"):
        with faults.leave_out():
            identity = number(question, "question_id", file, where)
            ids.add(identity, where)
            image_id = number(question, "image_id", file, where)
            annotation = _Annotation(where, image_id, "question")
            if part.annotations is not None:
                if identity not in annotated:
                    raise UserError(
                        f"{part.annotations}: no annotation with question_id {shown(identity)}, "
                        f"which {where} of {file} has; use the annotation file of the same split"
                    )
                found = annotated.pop(identity)
                if found is None:  # damaged, and counted
                    continue
                annotation = found
            if annotation.image_id != image_id:
                raise UserError(
                    f"{part.annotations}: {annotation.where} has the image_id {shown(annotation.image_id)}, "
                    f"but {where} of {file}, with the same question_id, has {shown(image_id)}; "
                    "use the files of the same split"
                )
            if division is not None:
                if image_id not in division.split_of:
                    raise UserError(
                        f"{division.file}: no image with cocoid {shown(image_id)}, which {where} of {file} "
                        "is about; give the official file"
                    )
                if division.split_of[image_id] != division.split:
                    continue
            text = text_field(question, "question", file, where)
            name = f"COCO_{subtype or part.images}_{image_id:012d}"
            image = pictures.path(part.images, name, file, where)
            groups = {"question type": annotation.kind, "answer type": annotation.answer_type}
            yield Example(
                str(identity),
                image,
                text,
                annotation.answers,
                annotation.kind,
                groups=groups if part.annotations is not None else {},
            )
    if not where:  # no questions at all, of which the caller says more
        return
    for identity, left in annotated.items():
        if left is not None and (division is None or _is_in(division, left.image_id)):
            faults.add(
                f"{part.annotations}: {left.where} has the question_id {shown(identity)}, which no question "
                f"of {file} has; use the question file of the same split"
            )


def _is_in(division: _Division, image_id: int) -> bool:
    return division.split_of.get(image_id, division.split) == division.split


def _annotations(
    file: Path | None, faults: Faults, division: _Division | None, least: int
) -> dict[int, _Annotation | None]:
    """Question id -> annotation; None for damaged ones, which are counted."""
    annotated: dict[int, _Annotation | None] = {}
    if file is None:
        return annotated
    for where, record in records(file, "annotations"):
        with faults.leave_out():
            identity = number(record, "question_id", file, where)
            if identity in annotated:
                first = annotated[identity]
                raise UserError(
                    f"{file}: {where} has the question_id {shown(identity)}, which "
                    f"{first.where if first else 'an earlier one'} has too; remove one of them"
                )
            annotated[identity] = None
            image_id = number(record, "image_id", file, where)
            annotated[identity] = (
                _Annotation(
                    where,
                    image_id,
                    intern(str(field(record, "question_type", str, file, where))),
                    intern(str(field(record, "answer_type", str, file, where))),
                    answers(record, file, where, least),
                )
                if division is None or _is_in(division, image_id)
                else _Annotation(where, image_id)
            )
    return annotated


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
    readers = (Karpathy(), VLT5(), Official(), BLIP(), PAdapter(), _HUB)
    homepage = "https://visualqa.org"
    licence = (
        "annotations CC BY 4.0 (VQA Consortium); the images' copyright stays with their owners on Flickr, "
        "see https://cocodataset.org/#termsofuse"
    )
    citation = (
        "Goyal, Khot, Summers-Stay, Batra and Parikh (2017): Making the V in VQA Matter: Elevating the Role "
        "of Image Understanding in Visual Question Answering. CVPR."
    )
    archives = (
        *(
            Archive(f"v2_{kind}_{part}_mscoco.zip", f"{_AMAZON}/v2_{kind}_{part}_mscoco.zip", holds, size)
            for kind, part, holds, size in (
                ("Questions", "Train", ("v2_OpenEnded_mscoco_train2014_questions.json",), 7_239_401),
                ("Questions", "Val", ("v2_OpenEnded_mscoco_val2014_questions.json",), 3_494_929),
                (
                    "Questions",
                    "Test",
                    (
                        "v2_OpenEnded_mscoco_test2015_questions.json",
                        "v2_OpenEnded_mscoco_test-dev2015_questions.json",
                    ),
                    None,
                ),
                ("Annotations", "Train", ("v2_mscoco_train2014_annotations.json",), 21_708_861),
                ("Annotations", "Val", ("v2_mscoco_val2014_annotations.json",), 10_518_930),
            )
        ),
        COCO_TRAIN,
        COCO_VAL,
        COCO_TEST,
        KARPATHY,
    )
    tree = (
        ("v2_OpenEnded_mscoco_train2014_questions.json", "questions of train; also val2014"),
        ("v2_mscoco_train2014_annotations.json", "ten answers to each of them; also val2014"),
        (
            "v2_OpenEnded_mscoco_test2015_questions.json",
            "questions of test, without answers; also test-dev2015",
        ),
        (
            KARPATHY_FILE,
            "Karpathy's splits; without it, or another file of them, the official ones",
        ),
        ("train2014", "COCO_train2014_000000000009.jpg and 82,782 more"),
        ("val2014", "COCO_val2014_000000000042.jpg and 40,503 more"),
        ("test2015", "COCO_test2015_000000000001.jpg and 81,433 more"),
    )


VQA2 = register(Vqa2())
