"""Folders of runs for the page, with settings as cells write them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.models.weights import weights_digest
from experiments.tasks import TASKS
from tests.experiments.report.made import save_cells

STEPS = 40


def save_table(
    out: Path,
    rows=("gcn", "pgnn"),
    seeds=(0, 1),
    tasks: Iterable[str] = ("vqa", "ve"),
    images: int = 30,
    recipe: Mapping[str, Any] = {},
    **settings: Any,
) -> Path:
    """A table's folder: scores, settings, curves.

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
        loss = [2.0 + (row == "pgnn") + seed - k / STEPS for k in range(STEPS)]
        lines = [f"{k + 1},{value},{1e-3 * (1 - k / STEPS)},1.0" for k, value in enumerate(loss)]
        (cell / "metrics.csv").write_text("\n".join(["step,loss,learning_rate,gradient_norm", *lines, ""]))
        (cell / "validation.csv").write_text(f"step,{TASKS[task].selects}\n20,0.25\n40,0.5\n")
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


def change_scores(cell: Path) -> None:
    """Let a run with accuracies have half of the scores that it has."""
    with np.load(cell / "statistics.npz") as arrays:
        sums = {key: values[::-1] * [0.5, 1.0] for key, values in arrays.items()}
    np.savez(cell / "statistics.npz", **sums)
    result = json.loads((cell / "scores.json").read_text())
    columns = {column.key: column for column in TASKS[result["task"]].columns}
    result["scores"] = {key: float(columns[key].score(values.sum(axis=0))) for key, values in sums.items()}
    (cell / "scores.json").write_text(json.dumps(result))
