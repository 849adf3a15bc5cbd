"""What a finished cell leaves, read again: whole, of this cell, and in agreement with itself; or an error.

A table is made from these files. So a damaged one is named, and never takes part in a table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError

from adapters.scheme import RENAMED
from attngraph.errors import UserError
from experiments.base.errors import first_line
from experiments.tasks import Task

CONFIG, SCORES, STATISTICS, PREDICTIONS = "config.json", "scores.json", "statistics.npz", "predictions.json"
DIVERGED = "diverged.json"  # of a run whose loss or weights were not finite, in the place of its scores
AT_RATE = "@"  # between row and rate in the names of the runs of `attngraph sweep`, which are no table's
TOLERANCE = 1e-6  # of a score against the one that its statistics give


class Result(BaseModel):
    """The content of ``scores.json``."""

    model_config = ConfigDict(strict=True)

    row: str
    task: str
    seed: NonNegativeInt
    split: str
    scores: dict[str, FiniteFloat]
    kinds: dict[str, tuple[FiniteFloat, NonNegativeInt]]
    examples: PositiveInt
    trained_on: NonNegativeInt
    parameters: NonNegativeInt
    loss: FiniteFloat | None
    started: dict[str, FiniteFloat] = {}  # absent in results of earlier versions, as effects are
    learned: dict[str, FiniteFloat]
    effects: dict[str, dict[str, FiniteFloat]] = {}
    evaluator: str = ""  # this and the next two are absent in earlier results too
    source: str = ""
    answering: dict[str, str | int | FiniteFloat] = {}
    best_step: PositiveInt | None = None
    validations: PositiveInt | None = None
    train_seconds: FiniteFloat
    eval_seconds: FiniteFloat
    peak_mb: FiniteFloat


def read_config(folder: Path) -> dict[str, Any]:
    """A cell's ``config.json``, its scheme by the name of today.

    Raises:
        UserError: it is damaged.
    """
    with _undamaged(folder / CONFIG):
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not isinstance(config.get("settings"), dict):
            raise ValueError("no settings")
        of_method = config["settings"].get("settings")
        if isinstance(of_method, dict) and of_method.get("gnn") in list(RENAMED):
            of_method["gnn"] = RENAMED[of_method["gnn"]]
        return config


def read_result(folder: Path, row: str, task: Task, seed: int) -> dict[str, Any]:
    """A finished cell's ``scores.json``, checked against the cell's name and the files beside it.

    Args:
        folder: of the cell.
        row, task, seed: of the cell.

    Raises:
        UserError: one of the files is missing or damaged, or they do not belong together.
    """
    with _undamaged(folder / SCORES):
        text = (folder / SCORES).read_text(encoding="utf-8")
        result = Result.model_validate_json(text)
        if (result.row, result.task, result.seed) != (row, task.name, seed):
            raise ValueError(f"of {result.row} {result.task} seed {result.seed}")
        due = [column.key for column in task.columns if not column.optional]
        if missing := [key for key in due if key not in result.scores]:
            raise ValueError(f"no {missing[0]}")
    with _undamaged(folder / STATISTICS), np.load(folder / STATISTICS) as arrays:
        for column in (column for column in task.columns if column.key in result.scores):
            _check_statistics(arrays[column.key], column.score, result.scores[column.key])
    with _undamaged(folder / PREDICTIONS):
        predictions = json.loads((folder / PREDICTIONS).read_text(encoding="utf-8"))
        if len(predictions) != result.examples or not all(isinstance(t, str) for t in predictions.values()):
            raise ValueError(f"not {result.examples} texts")
    return json.loads(text)


def _check_statistics(sums: np.ndarray, score: Any, expected: float) -> None:
    if sums.ndim != 2 or not np.issubdtype(sums.dtype, np.number) or not np.isfinite(sums).all():
        raise ValueError("not rows of finite numbers")
    given = float(score(sums.sum(axis=0, dtype=np.float64)))
    if not math.isclose(given, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        raise ValueError(f"they give {given:g}, {SCORES} says {expected:g}")


@contextmanager
def _undamaged(file: Path) -> Iterator[None]:
    """Whatever is wrong with a file means the same to the user."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise UserError(_damaged(file, reason)) from None
    except Exception as error:
        raise UserError(_damaged(file, f"{type(error).__name__}: {first_line(error)}")) from None


def _damaged(file: Path, reason: str) -> str:
    return f"{file} is damaged ({reason}): delete the folder {file.parent} and run again"
