"""VQA v2 in the JSON files that the field passes around: of VL-T5, of ALBEF and BLIP, and of p-Adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from attngraph.errors import UserError
from experiments.datasets.dataset import Counts, Reader
from experiments.datasets.example import Example
from experiments.datasets.faults import Faults
from experiments.datasets.pictures import Pictures
from experiments.datasets.question_files import (
    ANNOTATORS,
    ListReader,
    answer_texts,
    answers,
    number,
)
from experiments.datasets.reading import Unique, field, shown, text_field
from experiments.datasets.streams import records

KARPATHY_COUNTS = {
    "train": Counts(113_287, 605_102),
    "val": Counts(5_000, 26_729),
    "test": Counts(5_000, 26_280),
}
_SPLITS = ("train", "val", "test")
_FOLDERS = ("train2014", "val2014")


class VLT5(Reader):
    """``karpathy_{train,val,test}.json`` of VL-T5 (https://github.com/j-min/VL-T5).

    Their ``label`` maps answers to scores of 0.3 to 1. Ten answers do not follow from it: 1 stands for four
    to ten annotators, and answers outside of a list of 3,129 are gone. So the answers come from the field
    ``answers``, which the raw files have, or from the official annotation files in the same folder.
    """

    name, title = "vl-t5", "VL-T5's karpathy_{train,val,test}.json, answers from the official annotations"
    splits, published = _SPLITS, KARPATHY_COUNTS
    annotations = tuple(f"v2_mscoco_{part}_annotations.json" for part in _FOLDERS)

    def files(self, root: Path, split: str) -> list[Path]:
        official = [root / name for name in self.annotations]
        return [root / f"karpathy_{split}.json", *(file for file in official if file.is_file())]

    def due(self, root: Path, split: str) -> list[Path]:
        """All three: other readers' splits overlap with these."""
        return [root / f"karpathy_{name}.json" for name in self.splits]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        return [root / folder for folder in _FOLDERS]

    def examples(self, root: Path, split: str, faults: Faults) -> Iterator[Example]:
        pictures, file = Pictures(root), root / f"karpathy_{split}.json"
        ids = Unique(file, "question_id")
        official: dict[int, tuple[str, ...] | None] = {}
        is_read = False
        for where, record in records(file):
            if not is_read and isinstance(record, dict) and "answers" not in record:
                official, is_read = self._official(root, faults), True  # no fault in them is this record's
            with faults.leave_out():
                identity = number(record, "question_id", file, where)
                ids.add(identity, where)
                name = str(field(record, "img_id", str, file, where))
                folder = name.split("_")[1] if name.count("_") == 2 else ""
                image = pictures.inside(f"{folder}/{name}", _FOLDERS, file, where)
                text = text_field(record, "sent", file, where)
                kind = str(field(record, "question_type", str, file, where))
                answer_type = str(field(record, "answer_type", str, file, where))
                if "answers" in record:  # type: ignore[operator]
                    ten = answers(record, file, where)
                elif identity not in official:
                    raise UserError(
                        f"{file}: {where} has no field 'answers', and scores are not ten answers; "
                        f"{self._remedy(root, identity)}"
                    )
                elif (found := official[identity]) is None:
                    continue
                else:
                    ten = found
                groups = {"question type": kind, "answer type": answer_type}
                yield Example(str(identity), image, text, ten, kind, groups=groups)

    def _remedy(self, root: Path, identity: int) -> str:
        absent = [name for name in self.annotations if not (root / name).is_file()]
        if absent:
            return f"put {' and '.join(absent)} beside the file"
        return (
            f"{' and '.join(self.annotations)} beside the file have no annotation with question_id "
            f"{identity}: give the official files"
        )

    def _official(self, root: Path, faults: Faults) -> dict[int, tuple[str, ...] | None]:
        """Question id -> answers, from the official annotation files that are there; None for damaged ones,
        which are counted.
        """
        found: dict[int, tuple[str, ...] | None] = {}
        for file in [root / name for name in self.annotations if (root / name).is_file()]:
            for where, record in records(file, "annotations"):
                with faults.leave_out():
                    identity = number(record, "question_id", file, where)
                    found[identity] = None
                    found[identity] = answers(record, file, where)
        return found


class _Flat(ListReader):
    """Records ``{question_id, question, image: "val2014/COCO_....jpg", dataset: "vqa", answer: [ten
    texts]}``. They do not tell types of questions.

    Attributes:
        trained: splits to train on, where a question may have fewer than ten answers, as their authors' code
            allows: an answer's weight is its share of those that are there. VQA accuracy needs all ten.
    """

    key = "question_id"
    trained: tuple[str, ...] = ("train",)

    def notes(self, root: Path, split: str) -> list[str]:
        if split not in self.trained:
            return []
        files = self.files(root, split)
        few = sum(len(record["answer"]) < ANNOTATORS for file in files for _, record in records(file))  # type: ignore[index]
        return [f"{few:,} questions have fewer than ten answers: for training alone"] if few else []

    def example(
        self, record: object, split: str, folders: Sequence[str], pictures: Pictures, file: Path, where: str
    ) -> Example:
        if isinstance(record, dict) and record.get("dataset", "vqa") != "vqa":
            raise UserError(
                f"{file}: {where} is of the data set {shown(record['dataset'])}, which has no ten answers "
                "and other images; remove it"
            )
        image = pictures.inside(str(field(record, "image", str, file, where)), folders, file, where)
        text = text_field(record, "question", file, where)
        least = 1 if split in self.trained else ANNOTATORS
        given = () if split in self.unanswered else answer_texts(record, "answer", file, where, least)
        identity = field(record, "question_id", int, file, where)
        return Example(str(identity), image, text, given, "question")


class BLIP(_Flat):
    """``vqa_{train,val,test}.json`` of ALBEF and BLIP, in the official splits. ``vg_qa.json``, questions
    about Visual Genome with one answer each, is not read.
    """

    name, title = "blip", "ALBEF's and BLIP's vqa_{train,val,test}.json"
    splits, unanswered = ("train", "val", "trainval", "test"), ("test",)
    trained = ("train", "trainval")
    names = {
        "train": ("vqa_train.json",),
        "val": ("vqa_val.json",),
        "trainval": ("vqa_train.json", "vqa_val.json"),
        "test": ("vqa_test.json",),
    }
    folders = {
        "train": ("train2014", "val2014"),
        "val": ("train2014", "val2014"),
        "trainval": ("train2014", "val2014"),
        "test": ("test2015",),
    }
    published = {"test": Counts(81_434, 447_793)}

    def notes(self, root: Path, split: str) -> list[str]:
        if split == "test":
            return []
        lines = super().notes(root, split)
        lines.append("ALBEF's vqa_train.json and vqa_val.json lack seven of the 658,111 official questions")
        if (root / "vg_qa.json").exists():
            lines.append("vg_qa.json is not read: its questions have one answer, and images of Visual Genome")
        return lines


class PAdapter(_Flat):
    """``vqa_karpathy_{train,val,test}.json`` of p-Adapter (https://github.com/wuhy68/p-Adapter): BLIP's
    records in the Karpathy split, with answers in all splits.
    """

    name, title = "p-adapter", "p-Adapter's vqa_karpathy_{train,val,test}.json"
    splits, published = _SPLITS, KARPATHY_COUNTS
    names = {split: (f"vqa_karpathy_{split}.json",) for split in _SPLITS}
    folders = dict.fromkeys(_SPLITS, _FOLDERS)

    def due(self, root: Path, split: str) -> list[Path]:
        """All three: other readers' splits overlap with these."""
        return [file for name in self.splits for file in self.files(root, name)]
