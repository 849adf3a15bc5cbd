"""Numbers from elsewhere that a table shows below its own: published ones, and the same table with another
model.

Published ones come from a larger model on other data sets, so they stand in blocks of their own, whose labels
say so. The numbers themselves are in ``published.yaml``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from attngraph.errors import UserError
from experiments.base.errors import first_line
from experiments.tables.frame import AVERAGE, WAY, Summary
from experiments.tables.runs import RESULTS
from experiments.tasks import TASKS
from experiments.tasks.task import Column

FILE = Path(__file__).with_name("published.yaml")
LABEL = "Published numbers, another scale: {about}; not comparable with the rows above"
BESIDE = "The same table with {model}, made here: compare orders, not scores"
MISSING = "–"
DRAWN = {"vqa2": "vqa", "snli_ve": "ve", "coco": "caption"}  # the task on drawn scenes that is like one


@dataclass(frozen=True)
class Published:
    """A block of numbers from elsewhere.

    Args:
        label: printed above the block.
        rows: name -> column key -> number as printed, which may have a spread: ``62.5 ± 0.4``.
        averaged: keys of the columns that the block's average is the mean of.
    """

    label: str
    rows: Mapping[str, Mapping[str, str]]
    averaged: frozenset[str] = frozenset()


def published_blocks() -> dict[str, Published]:
    """Every block by its name; a row's numbers in the file are in the order of its columns."""
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {
        name: Published(
            LABEL.format(about=block["about"]),
            {row: dict(zip(block["columns"], numbers.split())) for row, numbers in block["rows"].items()},
            frozenset(block["averaged"]),
        )
        for name, block in content.items()
    }


def of_drawn(block: Published) -> Published:
    """A block with the columns of the tasks on drawn scenes in the place of those that they are like."""

    def renamed(key: str) -> str:
        task, dot, metric = key.partition(".")
        return f"{DRAWN.get(task, task)}{dot}{metric}"

    rows = {
        name: {renamed(key): number for key, number in of_row.items()} for name, of_row in block.rows.items()
    }
    return Published(block.label, rows, frozenset(map(renamed, block.averaged)))


def published_for(columns: Sequence[Column], blocks: Iterable[Published]) -> tuple[Published, ...]:
    """The parts of blocks that a table with these columns can show; blocks without such a part are left out.

    Means over columns are kept only where the table takes them over the same columns.
    """
    averaged, shown = {column.key for column in columns if column.averaged}, []
    for block in blocks:
        kept = {column.key for column in columns}
        if averaged != block.averaged:
            kept -= {AVERAGE.key, WAY.key}
        rows = {
            name: {key: number for key, number in numbers.items() if key in kept}
            for name, numbers in block.rows.items()
        }
        if any(rows.values()):
            shown.append(Published(block.label, rows, block.averaged))
    return tuple(shown)


def read_beside(folder: Path, stem: str) -> Published:
    """The rows of a finished table as a block of another one.

    Args:
        folder: of the tables of a run, the ``--out`` that they were written into.
        stem: the table's name there.

    Raises:
        UserError: there is no such table, or its files cannot be read.
    """
    import pandas as pd

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
    return Published(BESIDE.format(model=model), rows, frozenset(averaged & set(keys)))


def _numbers(line: Any, keys: Sequence[str]) -> dict[str, str]:
    """A row's scores by column key, as tables print them."""
    scores = {}
    for key in (key for key in keys if line[f"{key}_n"] > 0):
        std = float(line[f"{key}_std"])
        scores[key] = number(Summary(float(line[f"{key}_mean"]), None if math.isnan(std) else std, 1))
    return scores


def number(score: Summary | None) -> str:
    """A score times 100, with its standard deviation if it has one."""
    if score is None:
        return MISSING
    return f"{100 * score.mean:z.1f}" + ("" if score.std is None else f" ± {100 * score.std:.1f}")
