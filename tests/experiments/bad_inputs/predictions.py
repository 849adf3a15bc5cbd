"""Files of predictions. Their own faults are in ``tests/experiments/tasks/test_formats.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.experiments.bad_inputs.case import Case
from tests.experiments.bad_inputs.damage import JSON_FILE, change_json
from tests.experiments.bad_inputs.world import World


def cases() -> Iterator[Case]:
    for how in ("missing", "deep", "not JSON"):
        yield _case(how, JSON_FILE[how])
    yield _case("an unknown question", lambda file: change_json(file, (0, "question_id"), 7))
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
