"""Damaged files of predictions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.experiments.bad_inputs.case import Case
from tests.experiments.bad_inputs.damage import JSON_FILE, change_json, wrong_values
from tests.experiments.bad_inputs.world import World

RECORD = {"question_id": 1, "answer": "yes"}


def cases() -> Iterator[Case]:
    for how, damage in JSON_FILE.items():
        yield _case(how, damage)
    yield _case("a byte order mark", lambda file: file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes()))
    yield _case("a record null", lambda file: change_json(file, (0,), None))
    for name, right in RECORD.items():
        for how, value in wrong_values(right):
            yield _case(
                f"{name} {how}", lambda file, name=name, value=value: change_json(file, (0, name), value)
            )
    yield _case("an empty answer", lambda file: change_json(file, (0, "answer"), " "))
    yield _case("an unknown question", lambda file: change_json(file, (0, "question_id"), 7))
    yield _case("half a character", lambda file: change_json(file, (0, "answer"), "\ud800"))
    yield _case("a record twice", _changed(lambda records: records + records[:1]))
    yield _case("a record too few", _changed(lambda records: records[1:]))
    yield _case("a line for each record", _one_a_line)
    for words, named in (
        (["--split", "validation"], "answers.json"),
        (["--task", "ve"], "answers.json"),
        (["--task", "easy_vqa"], "--data"),
    ):
        yield Case(
            f"score {' '.join(words)}",
            lambda world, spot, words=words: [*_words(world, world.answers, spot), *words],
            (named,),
        )
    yield Case(
        "score without --data", lambda world, spot: _words(world, world.answers, spot)[:4], ("--data",)
    )
    yield Case(
        "score without --task", lambda world, spot: _words(world, world.answers, spot)[:2], ("--task",)
    )
    yield Case("score without a file", lambda world, spot: ["score", "--task", "easy_vqa"], ("FILE",))


def _words(world: World, file: Path, spot: Path) -> list[str]:
    return ["score", str(file), "--task", "vqa", "--data", str(world.data), "--out", str(spot / "out")]


def _case(how: str, damage: Callable[[Path], object]) -> Case:
    def words(world: World, spot: Path) -> list[str]:
        file = world.copy(world.answers, spot)
        damage(file)
        return _words(world, file, spot)

    return Case(f"score {how}", words, ("answers.json",))


def _changed(change: Callable[[list], list]) -> Callable[[Path], object]:
    return lambda file: file.write_text(json.dumps(change(json.loads(file.read_text()))))


def _one_a_line(file: Path) -> None:
    file.write_text("\n".join(map(json.dumps, json.loads(file.read_text()))))
