"""A made VQA v2 in the official files, of the official size or a share of it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from experiments.data.captions import KARPATHY_FILE
from experiments.data.dataset import ANNOTATORS

LINKS = 30_000  # names of one file: file systems allow some 65,000
CAPTIONS, LONGEST = 5, 12  # of an image; words of a text
KINDS = ("what is the", "is there a", "how many", "what color is the", "none of the above")
TYPES = ("other", "yes/no", "number")


class Group(NamedTuple):
    """Images of one split in one folder, and the questions about them, as many as in VQA v2."""

    split: str
    folder: str
    images: int
    questions: int


GROUPS = (
    Group("train", "train2014", 82_783, 443_757),
    Group("restval", "val2014", 30_504, 161_345),
    Group("val", "val2014", 5_000, 26_729),
    Group("test", "val2014", 5_000, 26_280),
)


def write_vqa2(folder: Path, share: float = 1, seed: int = 0) -> Path:
    """Writes question and annotation files of train2014 and val2014, ``dataset_coco.json`` and the images,
    which are hard links to a few tiny files.

    Args:
        folder: made.
        share: of the images and questions of VQA v2.
        seed: of the texts.
    """
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklmnoprstuvwy", k=draw.randint(2, 8))) for _ in range(5_000)]
    described: list[str] = []
    first = 1
    for part in ("train2014", "val2014"):
        (folder / part).mkdir(parents=True)
        asked, annotated = [], []
        for group in (group for group in GROUPS if group.folder == part):
            images = _scaled(group.images, share)
            numbers = range(first, first + images)
            first += images
            described += [_image(number, group, words, draw) for number in numbers]
            for question, annotation in _questions(numbers, _scaled(group.questions, share), words, draw):
                asked.append(question)
                annotated.append(annotation)
            _pictures(folder / part, [f"COCO_{part}_{number:012d}.jpg" for number in numbers])
        head = f'"info": {{}}, "license": {{}}, "data_type": "mscoco", "data_subtype": "{part}"'
        (folder / f"v2_OpenEnded_mscoco_{part}_questions.json").write_text(
            f'{{{head}, "task_type": "Open-Ended", "questions": [{", ".join(asked)}]}}'
        )
        (folder / f"v2_mscoco_{part}_annotations.json").write_text(
            f'{{{head}, "annotations": [{", ".join(annotated)}]}}'
        )
    (folder / KARPATHY_FILE).write_text(f'{{"images": [{", ".join(described)}], "dataset": "coco"}}')
    return folder


def _scaled(count: int, share: float) -> int:
    return max(1, round(count * share))


def _questions(
    numbers: range, count: int, words: list[str], draw: random.Random
) -> Iterator[tuple[str, str]]:
    """So many questions and their annotations, spread evenly over the images; JSON."""
    for place, number in enumerate(numbers):
        for asked in range(count // len(numbers) + (place < count % len(numbers))):
            about = f'"image_id": {number}, "question_id": {number * 1000 + asked}'
            text = " ".join(draw.choices(words, k=draw.randint(4, LONGEST)))
            said = draw.choices(words, k=draw.randint(1, 4))
            answers = ", ".join(
                f'{{"answer": "{draw.choice(said)}", "answer_confidence": "yes", "answer_id": {annotator}}}'
                for annotator in range(1, ANNOTATORS + 1)
            )
            yield (
                f'{{{about}, "question": "{text.capitalize()}?"}}',
                f'{{"question_type": "{draw.choice(KINDS)}", "multiple_choice_answer": "{said[0]}", '
                f'"answers": [{answers}], {about}, "answer_type": "{draw.choice(TYPES)}"}}',
            )


def _image(number: int, group: Group, words: list[str], draw: random.Random) -> str:
    """An image of ``dataset_coco.json``; JSON."""
    sentences = []
    for place in range(CAPTIONS):
        tokens = draw.choices(words, k=LONGEST - 1)
        about = {"imgid": number, "sentid": number * CAPTIONS + place}
        sentences.append({"tokens": tokens, "raw": " ".join(tokens) + ".", **about})
    return json.dumps(
        {
            "filepath": group.folder,
            "sentids": [sentence["sentid"] for sentence in sentences],
            "filename": f"COCO_{group.folder}_{number:012d}.jpg",
            "imgid": number,
            "split": group.split,
            "sentences": sentences,
            "cocoid": number,
        }
    )


def _pictures(folder: Path, names: list[str]) -> None:
    for place, name in enumerate(names):
        if place % LINKS == 0:
            source = folder / name
            Image.new("RGB", (8, 8)).save(source)
        else:
            os.link(source, folder / name)
