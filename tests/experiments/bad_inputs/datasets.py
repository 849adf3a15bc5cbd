"""Damaged data sets in the official formats."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.experiments.bad_inputs.case import Case
from tests.experiments.bad_inputs.damage import JSON_FILE, TRUNCATED, change_json, wrong_values
from tests.experiments.bad_inputs.options import LOOKED_AT
from tests.experiments.bad_inputs.world import World

QUESTIONS = Path("vqa_v2", "v2_OpenEnded_mscoco_val2014_questions.json")
ANNOTATIONS = Path("vqa_v2", "v2_mscoco_val2014_annotations.json")
HYPOTHESES = Path("snli_ve", "snli_ve_dev.jsonl")
CAPTIONS = Path("karpathy", "dataset_coco.json")
TASK_OF = {QUESTIONS: "vqa", ANNOTATIONS: "vqa", HYPOTHESES: "ve", CAPTIONS: "caption"}
#: The fields that readers use, with a right value of each.
FIELDS: dict[Path, dict[tuple[str | int, ...], Any]] = {
    QUESTIONS: {
        ("questions",): [],
        ("questions", 0): {},
        ("questions", 0, "image_id"): 1,
        ("questions", 0, "question_id"): 1,
        ("questions", 0, "question"): "",
    },
    ANNOTATIONS: {
        ("annotations",): [],
        ("annotations", 0): {},
        ("annotations", 0, "question_id"): 1,
        ("annotations", 0, "answers"): [],
        ("annotations", 0, "answers", 0): {},
        ("annotations", 0, "answers", 0, "answer"): "",
    },
    HYPOTHESES: {("Flickr30K_ID",): "", ("sentence2",): "", ("gold_label",): ""},
    CAPTIONS: {
        ("images",): [],
        ("images", 4): {},
        ("images", 4, "filename"): "",
        ("images", 4, "split"): "",
        ("images", 4, "sentences"): [],
        ("images", 4, "sentences", 0): {},
        ("images", 4, "sentences", 0, "raw"): "",
    },
}


def cases() -> Iterator[Case]:
    yield from _files()
    yield from _fields()
    yield from _contents()
    yield from _folders()
    yield from _scenes()


def _words(world: World, spot: Path, task: str, command: str = "heterophily") -> list[str]:
    model = str(world.model("blip"))
    own = ["--model", model, "--data", str(spot / "data"), "--task", task, "--examples", "2"]
    return [command, *own, "--out", str(spot / "out")]


def _case(
    name: str, task: str, damage: Callable[[Path], object], *named: str, command: str = "heterophily"
) -> Case:
    def words(world: World, spot: Path) -> list[str]:
        damage(world.copy(world.data, spot))
        return _words(world, spot, task, command)

    return Case(f"{command} --data {name}", words, named)


def _files() -> Iterator[Case]:
    for number, (file, task) in enumerate(TASK_OF.items()):
        for how, damage in (JSON_FILE if file.suffix == ".json" else {**JSON_FILE, **TRUNCATED}).items():
            yield _case(
                f"{file.name} {how}",
                task,
                lambda data, file=file, damage=damage: damage(data / file),
                file.name,
                command=LOOKED_AT[number % 3],
            )


def _fields() -> Iterator[Case]:
    for file, fields in FIELDS.items():
        for place, right in fields.items():
            for how, value in wrong_values(right):
                if value is ... and isinstance(place[-1], int):
                    continue

                def damage(data: Path, file=file, place=place, value=value) -> None:
                    if file.suffix == ".json":
                        return change_json(data / file, place, value)
                    first, *rest = (data / file).read_text(encoding="utf-8").splitlines()
                    record = json.loads(first)
                    if value is ...:
                        del record[place[0]]
                    else:
                        record[place[0]] = value
                    (data / file).write_text("\n".join([json.dumps(record), *rest]) + "\n")

                yield _case(
                    f"{file.name} {'.'.join(map(str, place))} {how}", TASK_OF[file], damage, file.name
                )


def _contents() -> Iterator[Case]:
    """Values of the right type that mean nothing."""
    wrong = {
        (QUESTIONS, "no questions"): (("questions",), []),
        (QUESTIONS, "an empty question"): (("questions", 0, "question"), " "),
        (QUESTIONS, "an image that is not there"): (("questions", 0, "image_id"), 999_999),
        (QUESTIONS, "a negative image"): (("questions", 0, "image_id"), -1),
        (ANNOTATIONS, "no annotations"): (("annotations",), []),
        (ANNOTATIONS, "no answers"): (("annotations", 0, "answers"), []),
        (ANNOTATIONS, "an unknown question"): (("annotations", 0, "question_id"), 999_999),
        (ANNOTATIONS, "another image than the question's"): (("annotations", 0, "image_id"), 999_999),
        (CAPTIONS, "no images"): (("images",), []),
        (CAPTIONS, "an image that is not there"): (("images", 4, "filename"), "none.png"),
        (CAPTIONS, "a file name that leaves the folder"): (("images", 4, "filename"), "../../x.png"),
        (CAPTIONS, "no sentences"): (("images", 4, "sentences"), []),
        (CAPTIONS, "an empty caption"): (("images", 4, "sentences", 0, "raw"), " "),
        (CAPTIONS, "an unknown split"): (("images", 4, "split"), "vall"),
    }
    for (file, how), (place, value) in wrong.items():
        yield _case(
            f"{file.name} {how}",
            TASK_OF[file],
            lambda data, file=file, place=place, value=value: change_json(data / file, place, value),
            file.name,
        )

    def twice(data: Path) -> None:
        content = json.loads((data / QUESTIONS).read_text(encoding="utf-8"))
        content["questions"].append(content["questions"][0])
        (data / QUESTIONS).write_text(json.dumps(content))

    yield _case("a question twice", "vqa", twice, QUESTIONS.name)
    lines = {
        "an unknown label": {"gold_label": "entailed"},
        "an empty hypothesis": {"sentence2": ""},
        "an image that is not there": {"Flickr30K_ID": "7"},
    }
    for how, change in lines.items():

        def damage(data: Path, change=change) -> None:
            first, *rest = (data / HYPOTHESES).read_text(encoding="utf-8").splitlines()
            (data / HYPOTHESES).write_text("\n".join([json.dumps(json.loads(first) | change), *rest]))

        yield _case(f"{HYPOTHESES.name} {how}", "ve", damage, HYPOTHESES.name)


def _folders() -> Iterator[Case]:
    pictures = {"vqa": "vqa_v2/val2014", "ve": "snli_ve/flickr30k_images", "caption": "karpathy/val2014"}
    for task, folder in pictures.items():
        yield _case(
            f"{folder} missing",
            task,
            lambda data, folder=folder: shutil.rmtree(data / folder),
            folder.split("/")[1],
        )
        yield _case(
            f"{folder} empty",
            task,
            lambda data, folder=folder: [file.unlink() for file in (data / folder).iterdir()],
            folder.split("/")[1],
        )
        yield _case(
            f"{folder} damaged, --strict",
            task,
            lambda data, folder=folder: [file.write_bytes(b"x") for file in (data / folder).iterdir()],
            ".png",
            "image",
        )
        for command in LOOKED_AT:
            yield Case(
                f"{command} --task {task} --data nowhere",
                lambda world, spot, task=task, command=command: [*_words(world, spot, task, command)],
                ("data",),
            )
    yield Case(
        "heterophily --task easy_vqa --data nowhere",
        lambda world, spot: _words(world, spot, "easy_vqa"),
        ("--data", "data"),
    )


def _scenes() -> Iterator[Case]:
    """What tells the scenes of drawn data."""
    for how, damage in JSON_FILE.items():
        if how in ("missing", "a link to itself", "a record without fields"):
            continue  # data of other sources have none
        yield _case(
            f"scenes.json {how}",
            "vqa",
            lambda data, damage=damage: damage(data / "vqa_v2" / "scenes.json"),
            "scenes.json",
        )
    for how, value in {
        "scene null": None,
        "scene a list": [],
        "scene a number": 3,
        "scene without things": {},
    }.items():

        def change(data: Path, value=value) -> None:
            file = data / "vqa_v2" / "scenes.json"
            file.write_text(json.dumps(dict.fromkeys(json.loads(file.read_text()), value)))

        yield _case(f"scenes.json {how}", "vqa", change, "scenes.json")
