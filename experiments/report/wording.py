"""How numbers, costs and the legend read in every output of a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report.columns import AVERAGE, averaged_columns
from experiments.report.table import LEVEL, Row, Summary, Table

MISSING = "–"
COSTS = ("Seeds", "Trainable", "Time", "Peak MB")


def number(score: Summary | None) -> str:
    """A score times 100, with its standard deviation if it has one."""
    if score is None:
        return MISSING
    return f"{100 * score.mean:z.1f}" + ("" if score.std is None else f" ± {100 * score.std:.1f}")


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours."""
    if seconds is None:
        return MISSING
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def costs(row: Row) -> list[str]:
    """A row's cells under :data:`COSTS`."""
    seeds = sorted({score.seeds for score in row.scores.values()})
    return [
        MISSING if not seeds else "–".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1]))),
        MISSING if row.parameters is None else f"{row.parameters:,}",
        duration(row.seconds),
        MISSING if row.peak_mb is None else f"{row.peak_mb:,.0f}",
    ]


def published_cells(table: Table, numbers: Mapping[str, str]) -> list[str]:
    """The cells of a published row, one per column."""
    return [numbers.get(column.key, MISSING) for column in table.columns]


def legend(table: Table, best: str, different: str = "†") -> list[str]:
    """Sentences under a table.

    Args:
        table: the table.
        best: how the best contender of a column looks in this output.
        different: what marks a difference from the baseline.
    """
    if table.has_spread:
        scale = "Scores × 100; mean ± standard deviation over seeds."
    else:
        scale = "Scores × 100, one seed: no spread is known."
    if AVERAGE in table.columns:
        headings = [column.heading for column in averaged_columns(table.columns)]
        scale += f" {AVERAGE.heading} = mean of {listed(headings)}."
    lines = [scale]
    if any(table.best(column.key) for column in table.columns):
        lines.append(f"{best} = best {table.contest} of the column.")
    if table.comparisons:
        compared = list(dict.fromkeys(str(line["row"]) for line in table.comparisons))
        lines.append(
            f"{different} = differs from {table.baseline} (Holm-adjusted p < {LEVEL}); compared: "
            f"{listed(compared)} (each on the seeds that both rows have). {scope(table.comparisons)}"
        )
    lines += [f"{row.name}: {row.note.rstrip('.')}." for row in table.rows if row.note]
    return [*lines, *table.notes]


def scope(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """What the p values of comparisons speak for, in sentences."""
    seeds = max((line.get("seeds", 1) for line in comparisons), default=1)
    checkpoints = max((line.get("checkpoints", 1) for line in comparisons), default=1)
    same = "this checkpoint" if checkpoints == 1 else f"these {checkpoints} checkpoints"
    if seeds == 1:
        return "p values speak for new images with these very training runs: one seed, one checkpoint."
    spread = [line for line in comparisons if line.get("seeds", 1) > 1]
    several = [line for line in spread if line.get("checkpoints", 1) > 1]
    own = [line for line in several if line["seeds"] == line["checkpoints"]]
    if own == spread:
        lines = "p values speak for new seeds, images and checkpoints"
        about = " Each seed has a checkpoint of its own, so what is given for new checkpoints is the same."
    else:
        lines = f"p values speak for new seeds and images with {same}"
        about = " What holds for new checkpoints too is given apart." if several else ""
        about += " Where each seed has a checkpoint of its own, it is the same." if own else ""
    alone = any(line.get("seeds") == 1 for line in comparisons)
    return f"{lines}{'; those of one seed for new images only' if alone else ''}.{about}"


def listed(words: Sequence[str]) -> str:
    """Words in a sentence: ``a, b and c``, or ``a, x; b, x; and c`` if one has a comma of its own, outside
    parentheses.
    """
    if len(words) < 2:
        return "".join(words)
    if any("," in re.sub(r"\([^()]*\)", "", word) for word in words):
        return "; ".join([*words[:-1], f"and {words[-1]}"])
    return f"{', '.join(words[:-1])} and {words[-1]}"
