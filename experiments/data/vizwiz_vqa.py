"""VizWiz-VQA (Gurari et al. 2018, https://vizwiz.org): questions of blind people about their photographs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from experiments.base.reading import Pictures, Record, records, shown
from experiments.data.damaged import Reading
from experiments.data.dataset import ANNOTATORS, Counts, DataSet, Reader, register
from experiments.data.example import Example
from experiments.data.hub import Columns, Hub

ANSWERABLE = "answerable"  # the group that tells the truth of the answerability task: "1" or "0"
VIZWIZ = "https://vizwiz.cs.colorado.edu/VizWiz_final"
#: VizWiz's images, of which its two data sets take different ones.
VIZWIZ_IMAGES = (
    "{train,val,test}/",
    "VizWiz_train_00000000.jpg and others, those of VizWiz-VQA and of VizWiz-Captions; train has 11.3 GB",
    f"{VIZWIZ}/images/{{train,val,test}}.zip",
)
_FOLDERS = ("Annotations", "", "annotations")  # the archive unpacks to the first
_OLD = re.compile(r".*_\d{12}\.\w+$")


class Official(Reader):
    """``{train,val,test}.json``: a question an image, whose name is the key. An example's kind is the type of
    its answer; the group ``answerable`` says 1 or 0.
    """

    name, title = "official", "{train,val,test}.json"
    splits, unanswered = ("train", "val", "test"), ("test",)
    published = {
        "train": Counts(20_523, 20_523),
        "val": Counts(4_319, 4_319),
        "test": Counts(8_000, 8_000),
    }

    def files(self, root: Path, split: str) -> list[Path]:
        places = [root / folder / f"{split}.json" for folder in _FOLDERS]
        return [next((place for place in places if place.is_file()), places[0])]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        return [root / split]

    def examples(self, root: Path, split: str, reading: Reading) -> Iterator[Example]:
        (file,), pictures = self.files(root, split), Pictures(root)

        def example(record: Record) -> Example:
            name = record.text("image")
            if _OLD.match(name):
                raise record.fault(
                    f"the image {shown(name)} of {record.where} has twelve digits, as in the release of "
                    "2018, whose splits and answers are others",
                    "download the release of 2020",
                )
            image, text = pictures.path(split, name, record), record.text("question")
            if split in self.unanswered:
                return Example(name, image, text, (), "question")
            answers = record.texts("answers", "answer", ANNOTATORS)
            kind, answerable = record.text("answer_type"), record.field("answerable", int)
            if answerable not in (0, 1):
                raise record.fault(f"field 'answerable' of {record.where} is {answerable}", "give 0 or 1")
            groups = {"answer type": kind, ANSWERABLE: str(answerable)}
            return Example(name, image, text, answers, kind, groups=groups)

        yield from reading.each(file, records(file), example, "image")


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
    contents = (
        (
            "Annotations/{train,val,test}.json",
            "questions, with ten answers to each in train and val; without the folder is fine too",
            f"{VIZWIZ}/vqa_data/Annotations.zip",
        ),
        VIZWIZ_IMAGES,
    )


VIZWIZ_VQA = register(VizWizVqa())
