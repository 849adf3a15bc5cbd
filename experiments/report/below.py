"""Which trained runs end below the model that they started from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from experiments.methods import METHODS
from experiments.methods.graph_adapter import method_named
from experiments.report.runs import Run
from experiments.report.way import FROZEN
from experiments.report.wording import listed
from experiments.tasks.task import Column


def below_frozen(runs: Sequence[Run], columns: Sequence[Column]) -> str:
    """A sentence on the trained runs that score less than the frozen model with the same pre-trained weights.

    Such a run has gone wrong, most often by a learning rate that is too high or too low for it, and pulls
    its row's mean down. It counts all the same; the sentence says where to look.

    Args:
        runs: of a table.
        columns: of the table.

    Returns:
        For each row and column how many of the runs that can be compared lie below; empty where none can.

    Raises:
        UserError: a run's ``config.json`` cannot be read, or names no weights.
    """
    frozen = {(run.task, run.checkpoint): run.result["scores"] for run in runs if run.row == FROZEN}
    if not frozen:
        return ""
    compared: Counter[tuple[str, str]] = Counter()
    below: Counter[tuple[str, str]] = Counter()
    for run in runs:
        method = method_named(run.row)
        base = frozen.get((run.task, run.checkpoint), {}) if method.trains else {}
        for column in columns:
            if column.key in base and column.key in run.result["scores"]:
                place = method.title, column.heading
                compared[place] += 1
                below[place] += run.result["scores"][column.key] < base[column.key]
    if not compared:
        return ""
    title = f"{METHODS[FROZEN].title} with the same pre-trained weights"
    found = [
        f"{row} in {heading} ({n} of {compared[row, heading]})" for (row, heading), n in (+below).items()
    ]
    return f"Runs that end below {title}: {listed(found)}" if found else f"No trained run ends below {title}"
