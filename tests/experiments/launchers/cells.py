"""Small cells for launchers, plugins that disturb them, and what may not depend on any of that."""

from __future__ import annotations

import json
from pathlib import Path

from experiments.launchers import local, shared
from experiments.scenes.write import Sizes, write_scenes
from experiments.training.cells import Cell
from experiments.training.execution import Execution
from experiments.training.launch import Launch
from experiments.training.recipe import Recipe

STEPS, FATAL = 8, 5
#: Saves after every step, and writes down each; the process that comes to a fatal step first is killed.
KILLED_ONCE = """
import os, signal
from pathlib import Path
from experiments.training import cells, train as training
FOLDER = Path({folder!r})
training.SAVE_EVERY = 1
train = cells.train

def noted(tuned, data, recipe, seed, folder, on_step, *more):
    name = "-".join(folder.parts[-2:])

    def told(step):
        on_step(step)
        with open(FOLDER / f"{{name}}.steps", "a") as log:
            log.write(f"{{os.getpid()}} {{step}}\\n")
        if name == {victim!r} and step == {fatal} and not (FOLDER / "killed").exists():
            (FOLDER / "killed").touch()
            {how}

    return train(tuned, data, recipe, seed, folder, told, *more)

cells.train = noted
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def write_data(folder: Path) -> Path:
    write_scenes(folder, 0, Sizes((24, 8, 12), (24, 8, 12), (8, 4, 4)))
    return folder


def small_cells(data: Path, seeds=(0, 1)) -> list[Cell]:
    recipe = Recipe(1e-3, STEPS, batch_size=4)
    trained = [Cell("gcn", "gcn", {}, "vqa", seed, recipe, data, eval_examples=6) for seed in seeds]
    return [*trained, Cell("majority", "majority", {}, "vqa", 0, None, data, eval_examples=6)]


def untrained(label: str, data: Path, **more) -> Cell:
    return Cell(label, "majority", {}, more.pop("task", "vqa"), 0, None, data, eval_examples=4, **more)


def disturbed(
    monkeypatch, folder: Path, victim: str = "vqa-seed1", fatal: int = FATAL, how: str = KILL
) -> Path:
    """Cells load the plugin from now on; the folder of its notes."""
    folder.mkdir()
    plugin = folder / "killer.py"
    plugin.write_text(KILLED_ONCE.format(folder=str(folder), victim=victim, fatal=fatal, how=how))
    for module in (local, shared):
        monkeypatch.setattr(module, "plugin_files", lambda: (plugin,))
    return folder


def steps(notes: Path, name: str = "vqa-seed1") -> list[list[int]]:
    """The steps that each process of a cell has done."""
    by: dict[str, list[int]] = {}
    for text in (notes / f"{name}.steps").read_text().splitlines():
        process, step = text.split()
        by.setdefault(process, []).append(int(step))
    return list(by.values())


def made(cells: list[Cell], out: Path) -> dict[str, object]:
    """What cells leave, but for times and memory."""
    result: dict[str, object] = {}
    for cell in cells:
        folder = cell.folder(out)
        scores = json.loads((folder / "scores.json").read_text())
        for name in ("train_seconds", "eval_seconds", "peak_mb"):
            del scores[name]
        result[cell.name] = scores
        for file in sorted(folder.iterdir()):
            if file.suffix in (".csv", ".safetensors") or file.name == "predictions.json":
                result[f"{cell.name} {file.name}"] = file.read_bytes()
    return result


def execution(out: Path, name: str, jobs: int = 2, **more) -> Execution:
    return Execution(out, jobs=jobs, launch=Launch(name, **more))
