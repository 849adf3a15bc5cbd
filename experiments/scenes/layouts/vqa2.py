"""VQA v2: questions of COCO's train2014, val2014, test2015 and test-dev2015, and Karpathy's split.

The images that Karpathy's ``dataset_coco.json`` divides are those of train2014 and val2014, as in the real
files. test-dev2015 asks about every fourth image of test2015.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from experiments.scenes.captions import captions
from experiments.scenes.drawing import draw
from experiments.scenes.layouts.annotators import most_common, ten_answers
from experiments.scenes.layouts.parts import Amounts, drawing, dump, own_seed
from experiments.scenes.questions import questions
from experiments.scenes.records import answer_type, karpathy_image, karpathy_place
from experiments.scenes.scene import generator

NAME = "vqa2"
DEV = 4  # one of so many images of test2015 is in test-dev2015, too
#: The beginnings that the official files sort questions by.
QUESTION_TYPES = tuple(
    name.strip()
    for name in """
    are, are the, are there, are there any, are these, are they, can you, could, do, do you, does the,
    does this, has, how, how many, how many people are, how many people are in, is, is he, is it, is that a,
    is the, is the man, is the person, is the woman, is there, is there a, is this, is this a,
    is this an, is this person, was, what, what animal is, what are, what are the, what brand,
    what color, what color are the, what color is, what color is the, what does the, what is,
    what is in the, what is on the, what is the, what is the color of the, what is the man,
    what is the name, what is the person, what is the woman, what is this, what kind of, what number is,
    what room is, what sport is, what time, what type of, where are the, where is the, which, who is,
    why, why is the, none of the above
    """.split(",")
)


def write(root: Path, amounts: Amounts, seed: int, advance: Callable[[int], object]) -> None:
    """Writes the data set; ``advance`` hears how many questions each image had."""
    chance = own_seed(NAME, seed)
    asked, annotated = defaultdict(list), defaultdict(list)
    described: list[dict] = []
    image_id = sentence_id = 0
    with drawing(root) as pictures:
        for split, count in amounts.items():
            for number, (scene, sentences) in enumerate(questions(split, count, chance)):
                label, source = karpathy_place(split, number)
                image_id += 1
                filename = f"COCO_{source}_{image_id:012d}.jpg"
                pictures.save(draw(scene), root / source / filename, scene)
                asked[source] += _asked(image_id, sentences)
                annotated[source] += _annotated(image_id, sentences, chance)
                texts = captions(scene, chance)
                described.append(
                    karpathy_image(label, source, filename, image_id, len(described), texts, sentence_id)
                )
                sentence_id += len(texts)
                advance(len(sentences))
        for scene, sentences in questions("test", amounts.test, own_seed(f"{NAME} test2015", seed)):
            image_id += 1
            pictures.save(draw(scene), root / "test2015" / f"COCO_test2015_{image_id:012d}.jpg", scene)
            asked["test2015"] += _asked(image_id, sentences)
            if scene.id % DEV == 0:
                asked["test-dev2015"] += _asked(image_id, sentences)
            advance(len(sentences))
    for part, records in asked.items():
        dump(
            root / f"v2_OpenEnded_mscoco_{part}_questions.json",
            {**_about(part), "task_type": "Open-Ended", "questions": records},
        )
    for part, records in annotated.items():
        dump(root / f"v2_mscoco_{part}_annotations.json", {**_about(part), "annotations": records})
    dump(root / "dataset_coco.json", {"images": described, "dataset": "coco"})


def question_type(question: str) -> str:
    """The longest of :data:`QUESTION_TYPES` that a question begins with."""
    fitting = [name for name in QUESTION_TYPES if f"{question} ".lower().startswith(f"{name} ")]
    return max(fitting, key=len, default="none of the above")


def _about(part: str) -> dict:
    return {
        "info": {"description": "drawn scenes in the format of VQA v2", "version": "1"},
        "license": {"name": "none needed", "url": ""},
        "data_type": "mscoco",
        "data_subtype": part,
    }


def _asked(image_id: int, sentences: list) -> list[dict]:
    return [
        {"image_id": image_id, "question": sentence.text, "question_id": image_id * 1000 + place}
        for place, sentence in enumerate(sentences)
    ]


def _annotated(image_id: int, sentences: list, chance: int) -> list[dict]:
    records = []
    for place, sentence in enumerate(sentences):
        answers = ten_answers(sentence.answer, generator(chance, image_id, place))
        common = most_common(answers)
        records.append(
            {
                "question_type": question_type(sentence.text),
                "multiple_choice_answer": common,
                "answers": [
                    {**answer, "answer_id": number} for number, answer in enumerate(answers, start=1)
                ],
                "image_id": image_id,
                "answer_type": answer_type(common),
                "question_id": image_id * 1000 + place,
            }
        )
    return records
