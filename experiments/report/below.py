"""Which trained runs end below the model that they started from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from experiments.methods.graph_adapter import method_named
from experiments.report.columns import scored, table_columns
from experiments.report.runs import Run, distinct
from experiments.report.way import FROZEN
from experiments.tasks.task import Task


def below_frozen(runs: Sequence[Run], tasks: Mapping[str, Task]) -> str:
    """A sentence on the trained runs that score less than the frozen model with the same pre-trained weights.

    Such runs pull their row's mean down and count all the same. A small deficit may be chance, a large one a
    learning rate that does not suit. Runs that are not shown the image are left out: for them it is no
    failure.

    Args:
        runs: of a table, answered in the same way.
        tasks: of the table, in the order of its columns.

    Returns:
        How many of the runs that can be compared end below in a column, how many of each row in which, and
        how many were left out since they see no image; empty where none can be compared.

    Raises:
        UserError: a run's ``config.json`` cannot be read, or names no weights.
    """
    frozen = {(run.task, run.checkpoint): run.result["scores"] for run in runs if run.row == FROZEN}
    if not frozen:
        return ""
    columns, compared, low, blind = table_columns(scored(tasks, runs)), 0, 0, 0
    by_row: dict[str, Counter[str]] = {}
    for run in distinct(runs):
        method = method_named(run.row)
        base, scores = frozen.get((run.task, run.checkpoint)), run.result["scores"]
        if base is None or not method.trains:
            continue
        if method.vision == "zero":
            blind += 1
            continue
        below = [
            column.heading
            for column in columns
            if column.key in base and column.key in scores and scores[column.key] < base[column.key]
        ]
        compared, low = compared + 1, low + bool(below)
        if below:
            by_row.setdefault(method.title, Counter()).update(below)
    if not compared:
        return ""
    rows = [
        f"{row}: {', '.join(f'{heading} {count}' for heading, count in counts.items())}"
        for row, counts in by_row.items()
    ]
    end = "trained run ends" if compared == 1 else "trained runs end"
    return (
        f"{low} of {compared} {end} below the frozen model with the same pre-trained weights in some column"
        + (f" ({'; '.join(rows)})" if rows else "")
        + (f"; runs without the image are left out: {blind}" if blind else "")
    )
