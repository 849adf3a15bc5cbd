"""From runs to the rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from attngraph.errors import UserError
from experiments.methods.graph_adapter import method_named
from experiments.report.columns import AVERAGE, averaged_columns
from experiments.report.runs import Run
from experiments.report.table import Row, Summary
from experiments.tasks.task import Column, Task


def summarise(values: Sequence[float]) -> Summary:
    """Mean and standard deviation (S - 1 in the denominator) of the scores of S seeds."""
    scores = [float(value) for value in values]
    if not scores:
        raise ValueError("no scores to summarise")
    std = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    return Summary(float(np.mean(scores)), std, len(scores))


def score_frame(runs: Sequence[Run], tasks: Mapping[str, Task]) -> pd.DataFrame:
    """One line per row and seed: what :func:`rows_from_frame` takes.

    Raises:
        UserError: a run is on a task that is not among ``tasks``, is given twice, or has a score that is no
            column of its task.
    """
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    seen = set()
    for run in runs:
        _check(run, tasks)
        if (run.row, run.task, run.seed) in seen:
            raise UserError(f"there are two runs of {run.row} on {run.task} with seed {run.seed}")
        seen.add((run.row, run.task, run.seed))
        line = lines.setdefault((run.row, run.seed), _empty_line(run))
        line.update(run.result["scores"])
        line["seconds"] += run.seconds
        line["parameters"] = max(line["parameters"], run.result["parameters"])
        line["peak_mb"] = max(line["peak_mb"], run.result["peak_mb"])
    return pd.DataFrame(list(lines.values()), columns=None if lines else ["name", "group", "seed"])


def rows_from_frame(frame: pd.DataFrame, columns: Sequence[Column]) -> list[Row]:
    """Rows from one line per method and seed.

    Args:
        frame: columns ``name``, ``group``, ``seed``, column keys with scores (fractions, NaN = not run), and
            optionally ``parameters`` and ``peak_mb`` (the largest is taken), ``seconds`` (the mean), ``note``
            (the first).
        columns: of the table. If they hold the average, it is computed here, for each seed that has all that
            enter it.

    Raises:
        UserError: a column other than scores is missing.
    """
    missing = {"name", "group", "seed"} - set(frame.columns)
    if missing:
        raise UserError(f"the results lack the column(s) {', '.join(sorted(missing))}")
    averaged = [column.key for column in averaged_columns(columns)]
    if AVERAGE in columns and set(averaged) <= set(frame.columns):
        frame = frame.assign(**{AVERAGE.key: frame[averaged].mean(axis=1, skipna=False)})
    return [_row(str(name), lines, columns) for name, lines in frame.groupby("name", sort=False)]


def _check(run: Run, tasks: Mapping[str, Task]) -> None:
    if run.task not in tasks:
        raise UserError(f"a run of {run.row} is on {run.task}, but the table's tasks are {', '.join(tasks)}")
    known = {column.key for column in tasks[run.task].columns}
    unknown = sorted(set(run.result["scores"]) - known)
    if unknown:
        raise UserError(
            f"a run of {run.row} on {run.task} scored {', '.join(unknown)}, but the task's columns are "
            f"{', '.join(sorted(known))}; results of another version cannot be shown"
        )


def _empty_line(run: Run) -> dict[str, Any]:
    method = method_named(run.row)
    line: dict[str, Any] = {
        "name": method.title,
        "group": method.group,
        "seed": run.seed,
        "note": method.note or None,
    }
    return line | {"seconds": 0.0, "parameters": 0, "peak_mb": 0.0}


def _row(name: str, lines: pd.DataFrame, columns: Sequence[Column]) -> Row:
    present = [column.key for column in columns if column.key in lines and lines[column.key].notna().any()]
    parameters = _cost(lines, "parameters", "max")
    notes = lines["note"].dropna() if "note" in lines else []
    return Row(
        name=name,
        group=lines["group"].iloc[0],
        scores={key: summarise(lines[key].dropna()) for key in present},
        parameters=None if parameters is None else int(parameters),
        seconds=_cost(lines, "seconds", "mean"),
        peak_mb=_cost(lines, "peak_mb", "max"),
        note=notes.iloc[0] if len(notes) else "",
    )


def _cost(lines: pd.DataFrame, column: str, reduction: str) -> float | None:
    values = lines[column].dropna() if column in lines else pd.Series(dtype=float)
    return None if values.empty else float(values.agg(reduction))
