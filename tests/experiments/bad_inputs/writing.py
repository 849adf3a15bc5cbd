"""Writing: folders for results that hold something else, or what an earlier run left, damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
#: Command -> what tells it which results its folder holds.
STATES = {
    "ablation": ("results.json", "cells/gcn/vqa/seed0/config.json"),
    "table": ("two/results.json", "data/manifest.json"),
    "search": ("data/manifest.json",),
    "scenes": ("manifest.json",),
    **dict.fromkeys(
        ("bench", "planted", "attention", "tsne", "heterophily", "report", "score"), ("run.json",)
    ),
}
STATE_DAMAGES = {how: JSON_FILE[how] for how in JSON_FILE if how not in ("missing", "a link to itself")}


def cases() -> Iterator[Case]:
    for command, name in RESULTS.items():
        yield _held(command, name, "somebody else's", lambda file: file.write_text("mine"))
    for command in ("scenes", "score", "report"):
        yield Case(f"{command} --out a file", lambda w, s, c=command: _at_file(c, w, s, ""), ("--out", "out"))
        yield Case(
            f"{command} --out below a file", lambda w, s, c=command: _at_file(c, w, s, "x"), ("--out", "out")
        )
    ways, turn = list(STATE_DAMAGES.items()), 0
    for command, names in STATES.items():
        for name in names:
            yield _held(command, name, *ways[turn % len(ways)])
            turn += 1


def _held(command: str, name: str, how: str, damage: Callable[[Path], object]) -> Case:
    """The command with a folder for its results that holds such a file."""

    def words(world: World, spot: Path) -> list[str]:
        file = spot / "out" / name
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        damage(file)
        return good_words(command, world, spot)

    return Case(f"{command} --out with {name} {how}", words, (name, "out"))


def _at_file(command: str, world: World, spot: Path, below: str) -> list[str]:
    (spot / "file").write_text("mine")
    return [*good_words(command, world, spot), "--out", str(spot / "file" / below)]
