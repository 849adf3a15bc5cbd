"""Tasks, score frames, runs and tables with known numbers."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.metrics.captions import bleu4_from_counts
from experiments.metrics.scene import scene_f1
from experiments.metrics.statistics import mean_statistics
from experiments.models.weights import weights_digest
from experiments.tables.frame import rows_from_frame, table_columns
from experiments.tables.runs import FILES, Run
from experiments.tables.table import ADAPTERS, REFERENCE, Published, Table
from experiments.tasks import TASKS
from experiments.tasks.task import Column, Task, TaskScores
from tests.experiments.drawn import DRAWN

COLUMNS = table_columns(DRAWN)
NAMES = {"gcn": "GCN", "appnp": "APPNP", "gcnii": "GCNII", "pgnn": "pGNN"}
ELSEWHERE = {"GCN": {"vqa.accuracy": "69.53", "caption.cider": "128.8", "avg": "79.02"}}
PUBLISHED = [Published("Published elsewhere", ELSEWHERE)]
STEPS = 40  # of the runs of `save_table`


class SmallTask(Task):
    """A task of which only the columns matter here."""

    def __init__(self, name: str, *columns: Column):
        self.name, self.title, self.columns = name, f"Task {name}", columns

    def examples(self, data, split):
        return []

    def score(self, predictions, examples):
        return TaskScores({}, {}, {})


def captioning(name: str) -> SmallTask:
    """A captioning task whose metrics have the names that every captioning task gives them."""
    return SmallTask(
        name,
        Column(f"{name}.bleu4", "BLEU@4", averaged=True, score=bleu4_from_counts),
        Column(f"{name}.cider", "CIDEr", averaged=True),
    )


def frame(seeds: int = 3) -> pd.DataFrame:
    """The scores of four adapters and of a reference that ran on two tasks only."""
    lines = []
    for k, (row, name) in enumerate(NAMES.items()):
        for seed in range(seeds):
            scores = {
                "vqa.accuracy": 0.50 + 0.02 * k + 0.01 * seed,
                "ve.accuracy": 0.6,
                "caption.bleu4": 0.3 + 0.01 * k,
                "caption.cider": 1.2 + 0.1 * k,
                "caption.scene": 0.6,
                "easy_vqa.accuracy": 0.7,
            }
            costs = {"parameters": 41664 + (k == 3), "seconds": 75.0, "peak_mb": 812.3}
            about = {"row": row, "name": name, "group": ADAPTERS, "seed": seed, "note": ""}
            lines.append(about | scores | costs)
    majority = {"row": "majority", "name": "Majority class", "group": REFERENCE, "seed": 0, "parameters": 0}
    majority |= {"note": "the most frequent answer", "seconds": 1.0, "peak_mb": 400.0}
    return pd.DataFrame([*lines, majority | {"vqa.accuracy": 0.25, "ve.accuracy": 0.33}])


def table(seeds: int = 3, **options) -> Table:
    """The table of :func:`frame`; pGNN differs from GCN in VQA."""
    numbers = {"column": "vqa.accuracy", "difference": 0.01, "low": -0.01, "high": 0.03}
    comparisons = [{"row": "pGNN", "p_holm": 0.01, **numbers}, {"row": "APPNP", "p_holm": 0.2, **numbers}]
    defaults = {"comparisons": comparisons, "published": PUBLISHED}
    return Table("GNN ablation", rows_from_frame(frame(seeds), COLUMNS), COLUMNS, **(defaults | options))


def bleu_counts(rng: np.random.Generator, images: int) -> np.ndarray:
    """Counts ``(images, 10)`` as of captions of 8 to 12 words."""
    length = rng.integers(8, 13, images)
    ngrams = np.stack([length - k for k in range(4)], axis=-1)
    matches = np.floor(ngrams * (0.9 - 0.15 * np.arange(4)) * (0.7 + 0.3 * rng.random((images, 1))))
    return np.concatenate([matches, ngrams, length[:, None], np.full((images, 1), 10)], axis=-1).astype(float)


def tuple_counts(rng: np.random.Generator, images: int) -> np.ndarray:
    """Counts ``(images, 12)`` as of captions of scenes: right, claimed, found, asked of each kind."""
    claimed = rng.integers(1, 6, (images, 3, 1))
    right = np.floor(claimed * rng.random((images, 3, 1)))
    return np.concatenate([right, claimed, right, claimed + 1], axis=-1).reshape(images, 12).astype(float)


STATISTICS = {bleu4_from_counts: bleu_counts, scene_f1: tuple_counts}  # of scores that are no means


def save_run(
    folder: Path,
    row: str,
    task: str,
    seed: int,
    statistics: dict[str, np.ndarray],
    scores: dict[str, float],
    checkpoints: int = 1,
) -> Run:
    """A finished run in a folder of its own."""
    path = folder / row / task / f"seed{seed}"
    path.mkdir(parents=True)
    np.savez(path / "statistics.npz", **statistics)
    config = {"settings": {"weights": f"weights {seed % checkpoints}"}}
    (path / "config.json").write_text(json.dumps(config))
    result = {
        "row": row,
        "task": task,
        "seed": seed,
        "split": "test",
        "scores": scores,
        "kinds": {"count": [next(iter(scores.values())), 10]},
        "examples": 60,
        "trained_on": 90,
        "parameters": 1234,
        "loss": 0.5,
        "learned": {"p": 1.5 + seed} if row == "pgnn" else {},
        "train_seconds": 10.0,
        "eval_seconds": 2.0,
        "peak_mb": 100.0 + seed,
    }
    return Run(row, task, seed, result, path)


def runs_on(
    folder: Path, tasks: dict[str, Task], rows=("gcn", "pgnn"), seeds=(0, 1), images=30, checkpoints=1
) -> list[Run]:
    """Runs whose scores are those of their statistics, different in every row, task, seed and column."""
    runs = []
    for r, row in enumerate(rows):
        for t, (name, task) in enumerate(tasks.items()):
            for seed in seeds:
                rng = np.random.default_rng([r, t, seed])
                statistics = {
                    column.key: STATISTICS[column.score](rng, images)
                    if column.score in STATISTICS
                    else mean_statistics(rng.random(images) + 0.1 * r)
                    for column in task.columns
                }
                scores = {c.key: float(c.score(statistics[c.key].sum(axis=0))) for c in task.columns}
                runs.append(save_run(folder, row, name, seed, statistics, scores, checkpoints))
    return runs


def save_cells(
    out: Path, tasks: dict[str, Task], rows=("gcn", "pgnn"), seeds=(0, 1), images=30, same=False, **options
) -> Path:
    """A table's folder with finished cells; with ``same`` their answers are those of the first row."""
    for run in runs_on(out / "cells", tasks, rows, seeds, images, **options):
        model = rows[0] if same else run.row
        answers = {f"example {k}": f"{model} says {k * k % 97}" for k in range(images)}
        (run.folder / "predictions.json").write_text(json.dumps(answers))
        (run.folder / "scores.json").write_text(json.dumps(run.result | {"examples": images}, indent=1))
        if same and run.row != model:
            first = out / "cells" / model / run.task / run.folder.name
            for name in ("statistics.npz", "scores.json"):
                content = (first / name).read_bytes()
                (run.folder / name).write_bytes(content.replace(b'"gcn"', f'"{run.row}"'.encode()))
    return out


def save_table(
    out: Path,
    rows=("gcn", "pgnn"),
    seeds=(0, 1),
    tasks: Iterable[str] = ("vqa", "ve"),
    images: int = 30,
    recipe: Mapping[str, Any] = {},
    **settings: Any,
) -> Path:
    """A table's folder: scores and settings.

    Args:
        out: the folder.
        rows, seeds, tasks, images: of it; the same ones have the same scores.
        recipe: what is changed of how its runs train.
        settings: what is changed of its runs' settings.
    """
    save_cells(out, {name: TASKS[name] for name in tasks}, rows, seeds, images)
    for cell in sorted(out.glob("cells/*/*/seed*")):
        row, task, seed = cell.parts[-3], cell.parts[-2], int(cell.name.removeprefix("seed"))
        describe(cell, row, task, seed, recipe, **settings)
    return out


def describe(
    cell: Path, row: str, task: str, seed: int, recipe: Mapping[str, Any] = {}, **settings: Any
) -> None:
    """Write a run's ``config.json``."""
    content = {
        "label": row,
        "method": row,
        "settings": {"gnn": row, "gnn_args": {}, "join": "blend", "reduction": 4},
        "task": task,
        "seed": seed,
        "recipe": {"learning_rate": 0.01, "steps": STEPS, "batch_size": 64, "warmup": 0.06} | dict(recipe),
        "data": "the same",
        "split": "test",
        "eval_examples": None,
        "train_examples": None,
        "weights": weights_digest(),
    }
    about = {"device": "cpu", "threads": 1, "versions": {"attngraph": "0.0.1", "torch": "2.0"}}
    (cell / "config.json").write_text(json.dumps({"settings": content | settings, **about}))


def write_archives(run: Path, out: Path) -> list[Path]:
    """An archive of every finished cell for each seed, as those that ship."""
    by_seed: dict[int, list[Path]] = {}
    for file in sorted(run.glob("cells/*/*/seed*/scores.json")):
        by_seed.setdefault(int(file.parent.name[4:]), []).append(file.parent)
    out.mkdir(parents=True)
    for seed, cells in by_seed.items():
        members = {
            f"{cell.relative_to(run)}/{name}": _packed(cell / name) for cell in cells for name in FILES
        }
        write_archive(out / f"seed-{seed:02}.tar.xz", members)
    return sorted(out.iterdir())


def write_archive(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:xz") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


def _packed(file: Path) -> bytes:
    if file.suffix != ".npz":
        return file.read_bytes()
    buffer = io.BytesIO()
    with np.load(file) as arrays:
        small = {key: np.float32(arrays[key]) for key in arrays.files}
    whole = {key: np.array_equal(array, array.round()) for key, array in small.items()}
    np.savez(buffer, **{key: array.astype(np.int16) if whole[key] else array for key, array in small.items()})
    return buffer.getvalue()
