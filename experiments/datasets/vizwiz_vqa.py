"""VizWiz-VQA (Gurari et al. 2018, https://vizwiz.org): questions of blind people about their photographs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from attngraph.errors import UserError
from experiments.datasets.archives import VIZWIZ, VIZWIZ_IMAGES
from experiments.datasets.dataset import Archive, Counts, DataSet, register
from experiments.datasets.example import Example
from experiments.datasets.hub import Columns, Hub
from experiments.datasets.pictures import Pictures
from experiments.datasets.question_files import ANNOTATORS, ListReader, answers, number
from experiments.datasets.reading import shown, text_field

ANSWERABLE = "answerable"  # the group that tells the truth of the answerability task: "1" or "0"
_FOLDERS = ("Annotations", "", "annotations")  # the archive unpacks to the first
_OLD = re.compile(r".*_\d{12}\.\w+$")


class Official(ListReader):
    """``{train,val,test}.json``: a question an image, whose name is the key. An example's kind is the type of
    its answer; the group ``answerable`` says 1 or 0.
    """

    name, title = "official", "{train,val,test}.json"
    splits, unanswered, key = ("train", "val", "test"), ("test",), "image"
    published = {
        "train": Counts(20_523, 20_523),
        "val": Counts(4_319, 4_319),
        "test": Counts(8_000, 8_000),
    }
    folders = {split: (split,) for split in splits}

    def files(self, root: Path, split: str) -> list[Path]:
        places = [root / folder / f"{split}.json" for folder in _FOLDERS]
        return [next((place for place in places if place.is_file()), places[0])]

    def example(
        self, record: object, split: str, folders: Sequence[str], pictures: Pictures, file: Path, where: str
    ) -> Example:
        name = text_field(record, "image", file, where)
        if _OLD.match(name):
            raise UserError(
                f"{file}: the image {shown(name)} of {where} has twelve digits, as in the release of 2018, "
                "whose splits and answers are others; download the release of 2020"
            )
        image = pictures.path(folders[0], name, file, where)
        text = text_field(record, "question", file, where)
        if split in self.unanswered:
            return Example(name, image, text, (), "question")
        given = answers(record, file, where)
        kind = text_field(record, "answer_type", file, where)
        answerable = number(record, "answerable", file, where)
        if answerable not in (0, 1):
            raise UserError(
                f"{file}: field 'answerable' of {where} is {shown(answerable)}; give 0 or 1, as in the "
                "official file"
            )
        return Example(
            name, image, text, given, kind, groups={"answer type": kind, ANSWERABLE: str(answerable)}
        )


_HUB = Hub(
    {split: ("lmms-lab/VizWiz-VQA", split) for split in ("val", "test")},
    Columns(
        id="question_id",
        references="answers",
        annotators=ANNOTATORS,
        prompt="question",
        kind="question",
        kinds="category",
        groups={"answer type": "category"},
        identity="{}.jpg".format,
    ),
    Official.unanswered,
    Official.published,
)


class VizWizVqa(DataSet):
    """VizWiz-VQA."""

    name, title, unit = "vizwiz_vqa", "VizWiz-VQA", "questions"
    readers = (Official(), _HUB)
    homepage = "https://vizwiz.org/tasks-and-datasets/vqa"
    licence = "CC BY 4.0"
    citation = (
        "Gurari, Li, Stangl, Guo, Lin, Grauman, Luo and Bigham (2018): VizWiz Grand Challenge: Answering "
        "Visual Questions from Blind People. CVPR."
    )
    archives = (
        Archive(
            "Annotations.zip",
            f"{VIZWIZ}/vqa_data/Annotations.zip",
            ("Annotations",),
        ),
        *VIZWIZ_IMAGES,
    )
    tree = (
        (
            "Annotations/train.json",
            "questions, ten answers to each; also val. Without the folder is fine too",
        ),
        ("Annotations/test.json", "questions without answers"),
        ("train", "VizWiz_train_00000000.jpg and others; the archive holds VizWiz-Captions' images too"),
        ("val", "VizWiz_val_00000000.jpg and others, likewise"),
        ("test", "VizWiz_test_00000000.jpg and others, likewise"),
    )


VIZWIZ_VQA = register(VizWizVqa())
