"""A table's raw numbers as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from experiments.files import whole
from experiments.report.table import Row, Table


def table_frame(table: Table) -> pd.DataFrame:
    """Raw numbers, one line per row: ``<column key>_mean``, ``_std`` (fractions), ``_n``, ``_p_adjusted``."""
    lines = [_line(table, row) for rows in table.groups.values() for row in rows]
    for block in table.published:
        for name, numbers in block.rows.items():
            scores = {}
            for column in (column for column in table.columns if column.key in numbers):
                values = numbers[column.key].split(" ± ")
                ends = zip(("mean", "std"), values)
                scores |= {f"{column.key}_{end}": round(float(value) / 100, 6) for end, value in ends}
            lines.append({"name": name, "group": block.label, **scores})
    frame = pd.DataFrame(lines)
    integers = [column for column in frame.columns if column.endswith("_n") or column == "parameters"]
    return frame.astype(dict.fromkeys(integers, "Int64"))


def write_csv(table: Table, path: str | Path) -> Path:
    """Write :func:`table_frame` as a CSV file; returns the path."""
    with whole(path) as part:
        table_frame(table).to_csv(part, index=False)
    return Path(path)


def _line(table: Table, row: Row) -> dict[str, Any]:
    line: dict[str, Any] = {"name": row.name, "group": row.group}
    for key in (column.key for column in table.columns):
        score = row.scores.get(key)
        line[f"{key}_mean"] = None if score is None else score.mean
        line[f"{key}_std"] = None if score is None else score.std
        line[f"{key}_n"] = 0 if score is None else score.seeds
        line[f"{key}_p_adjusted"] = table.p_adjusted(row.name, key)
    costs = {"parameters": row.parameters, "seconds": row.seconds, "peak_mb": row.peak_mb, "note": row.note}
    return line | costs
