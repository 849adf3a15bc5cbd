"""The rows of the same table with another model, shown in a block below a table's own."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from attngraph.errors import UserError
from experiments.errors import first_line
from experiments.report.ablation import RESULTS
from experiments.report.published import Published
from experiments.report.table import Summary
from experiments.report.wording import number
from experiments.tasks import TASKS

LABEL = "The same table with {model}, made here: compare orders, not scores"


def read_beside(folder: Path, stem: str) -> Published:
    """The rows of a finished table as a block of another one.

    Args:
        folder: of the tables of a run, the ``--out`` that they were written into.
        stem: the table's name there.

    Raises:
        UserError: there is no such table, or its files cannot be read.
    """
    file, results = folder / stem / f"{stem}.csv", folder / stem / RESULTS
    missing = next((path for path in (file, results) if not path.is_file()), None)
    if missing is not None:
        raise UserError(f"--beside {folder}: no {missing}; give the --out of a run that has made this table")
    try:
        model = json.loads(results.read_text(encoding="utf-8"))["model"]
        frame = pd.read_csv(file, index_col="name")
        keys = [column.removesuffix("_n") for column in frame.columns if column.endswith("_n")]
        own = frame[frame[[f"{key}_n" for key in keys]].notna().all(axis=1)]  # the others are published
        rows = {str(name): _numbers(line, keys) for name, line in own.iterrows()}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"--beside {folder}: {file.parent} cannot be read ({why}): make it again") from None
    averaged = {column.key for task in TASKS.values() for column in task.columns if column.averaged}
    return Published(LABEL.format(model=model), rows, frozenset(averaged & set(keys)))


def _numbers(line: pd.Series, keys: list[str]) -> dict[str, str]:
    """A row's scores by column key, as tables print them."""
    scores = {
        key: Summary(line[f"{key}_mean"], None if pd.isna(line[f"{key}_std"]) else line[f"{key}_std"], 1)
        for key in keys
        if line[f"{key}_n"] > 0
    }
    return {key: number(score) for key, score in scores.items()}
