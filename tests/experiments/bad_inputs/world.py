"""The good inputs that are damaged: tiny models, adapters, data sets, pictures and texts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from attngraph.experiments.data.drawn import Sizes, make_scenes, write_scenes
from attngraph.experiments.models.weights import weights_digest
from attngraph.experiments.runs.experiment import EXPERIMENT
from attngraph.experiments.tasks import TASKS
from attngraph.experiments.tasks.formats import write_predictions
from tests.experiments.models.original.authors_blip import save_checkpoint
from tests.experiments.tables.made import save_cells, write_archives
from tests.experiments.tiny import save, save_adapter

PRESET = """\
about: as little as possible
seeds: {gcn: 1, pgnn: 1}
runs: {recipe: {steps: 2}, train_examples: 16, eval_examples: 8}
scenes: {questions: [24, 8, 12], hypotheses: [12, 4, 4], captions: [4, 4, 4]}
"""
TABLE = """\
about: as little as possible
title: Two rows
rows: {Adapters: [gcn, pgnn]}
baseline: gcn
contenders: [gcn, pgnn]
contest: adapter
tasks: [vqa2]
"""
SIZE = """\
about: as little as possible
scenes: {layouts: 10}
runs: {recipe: {steps: 2}, eval_examples: 4}
rates: {adapters: [6.0e-3, 1.2e-2]}
"""
TEXTS = "a red ball\n"


class World:
    """Folders and files that every command accepts."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.data, self.six = folder / "data", folder / "six"
        self.preset, self.table, self.size = (folder / f"{name}.yaml" for name in ("least", "two", "little"))
        self.texts, self.picture = folder / "texts.txt", folder / "picture.png"
        self.run, self.archives, self.answers = folder / "run", folder / "archives", folder / "answers.json"
        self.cell = folder / "cell"  # finished, answers everything alike
        self.adapter = folder / "adapter"
        self.original = folder / "original" / "blip.pth"  # a checkpoint in its authors' names

    def model(self, name: str) -> Path:
        return self.folder / "models" / name

    def copy(self, what: Path, spot: Path) -> Path:
        """A copy of a file or folder of the world, to be damaged."""
        target = spot / what.name
        if what.is_dir():
            shutil.copytree(what, target)
        else:
            shutil.copy(what, target)
        return target


@dataclass(frozen=True)
class Case:
    """One bad input.

    Args:
        name: command, what is wrong and how.
        words: given the world and an empty folder of its own, the words after ``attngraph``; what is damaged
            is written into the folder.
        named: the message holds one of these.
    """

    name: str
    words: Callable[[World, Path], list[str]]
    named: tuple[str, ...]


def make_world(folder: Path) -> World:
    """Everything, written anew."""
    world = World(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_scenes(world.data, 0, Sizes((12, 12, 12), (6, 6, 6), (4, 4, 4)))
    make_scenes(world.six, 0, 10)
    asked = TASKS["vqa"].examples(world.data, "test")
    write_predictions(
        world.answers, TASKS["vqa"].file_format, {e.id: "yes" for e in asked}, [e.id for e in asked]
    )
    world.texts.write_text(TEXTS)
    world.preset.write_text(PRESET)
    world.table.write_text(TABLE)
    world.size.write_text(SIZE)
    Image.new("RGB", (16, 16), "red").save(world.picture)
    for name in ("bert", "vit", "blip", "captioner"):
        save(name, world.model(name))
    save_checkpoint(world.original.parent, "caption")
    save_adapter(world.adapter, gnn="pgnn")
    write_archives(save_cells(world.run, "vqa", images=6), world.archives)
    shutil.copytree(world.run / "cells" / "gcn" / "vqa" / "seed0", world.cell)
    settings = {"label": "gcn", "method": "majority", "task": "vqa", "seed": 0, "settings": {}}
    settings |= {"weights": weights_digest(), "train_examples": None}
    (world.cell / "config.json").write_text(json.dumps({"settings": settings}))
    (world.cell / EXPERIMENT).write_text("method: majority\ntask: vqa\n")
    return world


def listing(folder: Path) -> dict[str, tuple[int, ...]]:
    """Path below the folder -> which file it is, its size, and when it was last changed; () for a folder.
    Without what Python keeps for worker processes until this process ends.
    """
    held, folders = {}, [""]
    while folders:
        below = folders.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                name = f"{below}/{entry.name}" if below else entry.name
                if entry.name.startswith("pymp-"):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    held[name] = ()
                    folders.append(name)
                else:
                    status = entry.stat(follow_symlinks=False)
                    held[name] = (status.st_ino, status.st_size, status.st_ctime_ns)
    return held
