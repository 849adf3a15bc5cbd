"""Writing: folders for results that hold something else, or what an earlier run left, damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

from tests.experiments.bad_inputs.asking import good_words
from tests.experiments.bad_inputs.damage import JSON_FILE
from tests.experiments.bad_inputs.world import Case, World

#: Command -> a file that it writes.
RESULTS = {
    "attention": "viewer.html",
    "tsne": "tsne-role.png",
    "heterophily": "heterophily.csv",
    "bench": "bench.md",
    "planted": "planted.csv",
    "detect": "detect.md",
    "ablation": "ablation.md",
    "table": "two/results.json",
    "search": "search.csv",
    "sweep": "settings.yaml",
    "pretrain": "model.safetensors",
    "scenes": "vqa_v2",
    "significance": "significance.csv",
    "report": "report.html",
    "score": "results.json",
    "predict": "results.json",
    "evaluate": "statistics.npz",
    "train": "data",
    "convert": "config.json",
}
#: Command -> a file that tells it which results its folder holds.
STATES = {
    "ablation": "cells/gcn/vqa/seed0/config.json",
    "table": "two/results.json",
    "search": "data/manifest.json",
    "scenes": "manifest.json",
    "bench": "run.json",
    "planted": "run.json",
    "detect": "run.json",
    "score": "run.json",
}


def cases() -> Iterator[Case]:
    for command, name in RESULTS.items():
        yield _held(command, name, "somebody else's", lambda file: file.write_text("mine"))
    ways = cycle((how, way) for how, way in JSON_FILE.items() if how != "missing")
    for command, name in STATES.items():
        yield _held(command, name, *next(ways))
    yield Case("report --out a file", lambda world, spot: _at_file(world, spot / "file"), ("--out",))
    yield Case(
        "report --out below a file", lambda world, spot: _at_file(world, spot / "file" / "x"), ("--out",)
    )


def _held(command: str, name: str, how: str, damage: Callable[[Path], object]) -> Case:
    """The command with a folder for its results that holds such a file."""

    def words(world: World, spot: Path) -> list[str]:
        file = spot / "out" / name
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        damage(file)
        return good_words(command, world, spot)

    return Case(f"{command} --out with {name} {how}", words, (name, "out"))


def _at_file(world: World, out: Path) -> list[str]:
    (out if out.name == "file" else out.parent).write_text("mine")
    return ["report", str(world.run), "--out", str(out)]
