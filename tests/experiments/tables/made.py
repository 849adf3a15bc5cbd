"""Tasks, score frames, runs and tables with known numbers."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attngraph.experiments.metrics.captions import bleu4_from_counts
from attngraph.experiments.metrics.scene import scene_f1
from attngraph.experiments.metrics.statistics import mean_statistics
from attngraph.experiments.tables.frame import rows_from_frame, table_columns
from attngraph.experiments.tables.runs import Run
from attngraph.experiments.tables.table import ADAPTERS, Table
from attngraph.experiments.tasks import TASKS
from attngraph.experiments.tasks.task import Column, Task, TaskScores
from tests.experiments.drawn import DRAWN

COLUMNS = table_columns(DRAWN)
NAMES = {"gcn": "GCN", "appnp": "APPNP", "gcnii": "GCNII", "pgnn": "pGNN"}
FILES = ("config.json", "scores.json", "statistics.npz", "predictions.json")  # of a run


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


def table(seeds: int = 3, **options) -> Table:
    """Four adapters, and a reference that ran on two tasks only; pGNN differs from GCN in VQA."""
    lines = []
    for k, (row, name) in enumerate(NAMES.items()):
        for seed in range(seeds):
            about = {"row": row, "name": name, "group": ADAPTERS, "seed": seed, "note": ""}
            about |= {"parameters": 41664 + (k == 3), "seconds": 75.0, "peak_mb": 812.3}
            scores = (
                0.50 + 0.02 * k + 0.01 * seed,
                0.6,
                0.3 + 0.01 * k,
                1.2 + 0.1 * k,
                0.652 + 0.03 * k,
                0.6,
                0.7,
            )
            lines.append(about | {column.key: score for column, score in zip(COLUMNS, scores, strict=True)})
    majority = {"row": "majority", "name": "Majority class", "group": "Reference", "seed": 0, "parameters": 0}
    majority |= {"note": "the most frequent answer", "seconds": 1.0, "peak_mb": 400.0}
    frame = pd.DataFrame([*lines, majority | {"vqa.accuracy": 0.25, "ve.accuracy": 0.33}])
    numbers = {"column": "vqa.accuracy", "difference": 0.01, "low": -0.01, "high": 0.03}
    numbers |= {"seeds": seeds, "checkpoints": 1, "baseline": "GCN", "new_low": None, "new_high": None}
    compared = [{"row": "pGNN", "p_holm": 0.01, **numbers}, {"row": "APPNP", "p_holm": 0.2, **numbers}]
    return Table(
        "GNN ablation", rows_from_frame(frame, COLUMNS), COLUMNS, **({"comparisons": compared} | options)
    )


# ---- runs -----------------------------------------------------------------------------------------------


STATISTICS = {bleu4_from_counts: 10, scene_f1: 12}  # of scores that are no means: how many counts they have


def save_run(
    out: Path,
    row: str,
    task: str,
    seed: int,
    statistics: Mapping[str, np.ndarray],
    scores: Mapping[str, float],
    checkpoints: int = 1,
) -> Run:
    """A finished run of a table, with all its files."""
    folder = out / "cells" / row / task / f"seed{seed}"
    folder.mkdir(parents=True)
    images = len(next(iter(statistics.values())))
    settings = {"label": row, "method": row, "task": task, "seed": seed, "settings": {"gnn": row}}
    settings |= {"recipe": {"learning_rate": 0.01, "steps": 40, "batch_size": 64}, "split": "test"}
    settings |= {"data": "the same", "eval_examples": None, "weights": f"weights {seed % checkpoints}"}
    result = {"row": row, "task": task, "seed": seed, "split": "test", "scores": scores, "loss": 0.5}
    result |= {"kinds": {"count": [next(iter(scores.values())), 10]}, "examples": images, "trained_on": 90}
    result |= {"parameters": 1234, "learned": {}}
    result |= {"train_seconds": 10.0, "eval_seconds": 2.0, "peak_mb": 100.0 + seed}
    config = {"settings": settings, "versions": {"attngraph": "0.0.1", "torch": "2.0"}}
    answers = {f"example {k}": f"{row} says {k * k % 97}" for k in range(images)}
    np.savez(folder / "statistics.npz", **statistics)
    for name, content in (("config", config), ("scores", result), ("predictions", answers)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1))
    return Run(row, task, seed, result, folder)


def change(file: Path, part: str | None = None, **values: Any) -> None:
    """Changes values of a file in JSON, or of one of its parts."""
    content = json.loads(file.read_text())
    (content if part is None else content[part]).update(values)
    file.write_text(json.dumps(content))


def runs_on(
    out: Path,
    tasks: Mapping[str, Task] | Iterable[str] = ("vqa", "ve"),
    rows=("gcn", "pgnn"),
    seeds=(0, 1),
    images=30,
    checkpoints=1,
) -> list[Run]:
    """Runs whose scores are those of their statistics, different in every row, task, seed and column."""
    tasks = tasks if isinstance(tasks, Mapping) else {name: TASKS[name] for name in tasks}
    runs = []
    for r, row in enumerate(rows):
        for t, (name, task) in enumerate(tasks.items()):
            for seed in seeds:
                rng = np.random.default_rng([r, t, seed])
                statistics = {
                    column.key: rng.integers(1, 9, (images, STATISTICS[column.score])).astype(float)
                    if column.score in STATISTICS
                    else mean_statistics(rng.random(images) + 0.1 * r)
                    for column in task.columns
                }
                scores = {c.key: float(c.score(statistics[c.key].sum(axis=0))) for c in task.columns}
                runs.append(save_run(out, row, name, seed, statistics, scores, checkpoints))
    return runs


def save_cells(out: Path, *tasks: str, **options: Any) -> Path:
    """A table's folder with the runs that :func:`runs_on` makes of the options."""
    runs_on(out, tasks or ("vqa", "ve"), **options)
    return out


def write_archives(table: Path, out: Path) -> list[Path]:
    """An archive of every finished cell for each seed, as those that ship: statistics in single precision."""
    by_seed: dict[str, dict[str, bytes]] = {}
    for folder in sorted(file.parent for file in table.glob("cells/*/*/seed*/scores.json")):
        for name in FILES:
            content = (folder / name).read_bytes()
            if name.endswith("npz"):
                buffer = io.BytesIO()
                with np.load(folder / name) as arrays:
                    np.savez(buffer, **{key: np.float32(array) for key, array in arrays.items()})
                content = buffer.getvalue()
            by_seed.setdefault(folder.name[4:], {})[f"{folder.relative_to(table)}/{name}"] = content
    out.mkdir(parents=True)
    return [write_archive(out / f"seed-{int(seed):02}.tar.xz", held) for seed, held in by_seed.items()]


def write_archive(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:xz") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path
