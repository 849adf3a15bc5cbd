r"""From runs to scores: the columns of a table, one line for each row and seed, and means over seeds.

**Way** is a mean in which no column dominates: the share of the way from the frozen model to the ceiling.
CIDEr is several times as large as the other scores, so a plain mean of columns follows CIDEr. Here each
column is measured by what training can gain in it, and each task weighs the same, however many columns it
has:

.. math:: \text{Way} = \frac{1}{T} \sum_t \frac{1}{|C_t|} \sum_{c \in C_t} \frac{s_c - f_c}{g_c - f_c}
    = \sum_c w_c s_c - o,

over the columns :math:`C_t` of task :math:`t` that enter the table's Avg, with the score :math:`s_c` of a
run, :math:`f_c` of the frozen model and :math:`g_c` of the ceiling. The last two are means over seeds:
constants, so that a row's spread over seeds is its own. The frozen model is at 0, the ceiling at 1; a row may
lie beyond either. The ceiling is the fine-tuning of the text decoder, where adapters sit, or else full
fine-tuning.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from attngraph.errors import UserError
from experiments.methods.method import METHODS
from experiments.tables.runs import Run
from experiments.tasks.task import Column, Task

if TYPE_CHECKING:
    import pandas as pd

AVERAGE = Column("avg", "Avg")  # the mean of the averaged columns; no task has a key without a dot
WAY = Column("way", "Way")  # no task's either
FROZEN, CEILINGS = "frozen", ("decoder", "full")  # methods; the first of the ceilings that the table has
#: Of the ceiling over the frozen model, in every column: below it, noise would be divided by little.
MARGIN = 0.02


# ---- columns --------------------------------------------------------------------------------------------


def table_columns(tasks: Mapping[str, Task]) -> tuple[Column, ...]:
    """The columns of all tasks in their order, and the average of those that enter it, if at least two do.

    The average stands after the last of them. Headings that several columns share are preceded by the task's
    name; where that does not tell them apart either, the column's key is its heading.

    Args:
        tasks: name -> task.

    Raises:
        UserError: two columns have the same key.
    """
    owned = [(name, column) for name, task in tasks.items() for column in task.columns]
    keys = Counter(column.key for _, column in owned)
    shared = [key for key, count in keys.items() if count > 1]
    if shared:
        raise UserError(
            f"several columns have the key {shared[0]!r}; give each column its own <task>.<metric>"
        )
    headings = [column.heading for _, column in owned]
    headings = _told_apart(headings, [f"{name} {column.heading}" for name, column in owned])
    headings = _told_apart(headings, [column.key for _, column in owned])
    columns = [replace(column, heading=text) for (_, column), text in zip(owned, headings, strict=True)]

    averaged = [place for place, column in enumerate(columns) if column.averaged]
    if len(averaged) > 1:
        columns.insert(averaged[-1] + 1, AVERAGE)
    return tuple(columns)


def scored(tasks: Mapping[str, Task], runs: Sequence[Run]) -> dict[str, Task]:
    """The tasks with those of their columns that a table of these runs has: an optional one is left out
    unless every run of the task has its score.
    """
    shown = {}
    for name, task in tasks.items():
        scores = [run.result["scores"] for run in runs if run.task == name]
        shown[name] = copy(task)
        shown[name].columns = tuple(
            column
            for column in task.columns
            if not column.optional or (scores and all(column.key in of_run for of_run in scores))
        )
    return shown


def averaged_columns(columns: Sequence[Column]) -> list[Column]:
    """The columns whose mean is the table's average."""
    return [column for column in columns if column.averaged]


def _told_apart(headings: Sequence[str], longer: Sequence[str]) -> list[str]:
    """The headings, with the longer form of those that occur more than once."""
    counts = Counter(headings)
    return [long if counts[short] > 1 else short for short, long in zip(headings, longer, strict=True)]


def listed(words: Sequence[str]) -> str:
    """Words in a sentence: ``a, b and c``, or ``a, x; b, x; and c`` if one has a comma of its own, outside
    parentheses.
    """
    if len(words) < 2:
        return "".join(words)
    if any("," in re.sub(r"\([^()]*\)", "", word) for word in words):
        return "; ".join([*words[:-1], f"and {words[-1]}"])
    return f"{', '.join(words[:-1])} and {words[-1]}"


# ---- scores ---------------------------------------------------------------------------------------------


class Summary(NamedTuple):
    """Mean over seeds, standard deviation over seeds (None for one seed), number of seeds."""

    mean: float
    std: float | None
    seeds: int


def summarise(values: Sequence[float]) -> Summary:
    """Mean and standard deviation (S - 1 in the denominator) of the scores of S seeds."""
    scores = [float(value) for value in values]
    std = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    return Summary(float(np.mean(scores)), std, len(scores))


@dataclass(frozen=True)
class Row:
    """One method.

    Args:
        name: as printed.
        group: the block in which it stands.
        scores: column key -> mean and spread over seeds, as fractions; a missing key prints "–".
        parameters: number of trained parameters.
        seconds: training and scoring time of one seed.
        peak_mb: peak memory.
        note: one remark, printed under the table.
    """

    name: str
    group: str
    scores: Mapping[str, Summary]
    parameters: int | None = None
    seconds: float | None = None
    peak_mb: float | None = None
    note: str = ""


def score_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """A line for each row and seed: ``row`` (the method), its ``name`` and ``group``, ``seed``, ``note``, the
    scores by column key, and the costs of all tasks.

    Raises:
        UserError: a run is given twice.
    """
    import pandas as pd

    lines: dict[tuple[str, int], dict[str, Any]] = {}
    seen = set()
    for run in runs:
        if (run.row, run.task, run.seed) in seen:
            raise UserError(f"there are two runs of {run.row} on {run.task} with seed {run.seed}")
        seen.add((run.row, run.task, run.seed))
        about = {"row": run.row, "name": run.method.title, "group": run.method.group, "seed": run.seed}
        about |= {"note": run.method.note, "seconds": 0.0, "parameters": 0, "peak_mb": 0.0}
        line = lines.setdefault((run.row, run.seed), about)
        line.update(run.result["scores"])
        line["seconds"] += run.seconds
        line["parameters"] = max(line["parameters"], run.result["parameters"])
        line["peak_mb"] = max(line["peak_mb"], run.result["peak_mb"])
    return pd.DataFrame(list(lines.values()), columns=None if lines else ["row", "name", "group", "seed"])


def rows_from_frame(frame: pd.DataFrame, columns: Sequence[Column]) -> list[Row]:
    """Rows from one line per method and seed.

    Args:
        frame: as :func:`score_frame` makes it; NaN where a task was not run.
        columns: of the table. If they hold the average, it is computed here, for each seed that has all that
            enter it.
    """
    averaged = [column.key for column in averaged_columns(columns)]
    if AVERAGE in columns and set(averaged) <= set(frame.columns):
        frame = frame.assign(**{AVERAGE.key: frame[averaged].mean(axis=1, skipna=False)})
    rows = []
    for _, lines in frame.groupby("row", sort=False):
        held = [
            key for key in (column.key for column in columns) if key in lines and lines[key].notna().any()
        ]
        rows.append(
            Row(
                name=lines["name"].iloc[0],
                group=lines["group"].iloc[0],
                scores={key: summarise(lines[key].dropna()) for key in held},
                parameters=int(lines["parameters"].max()),
                seconds=float(lines["seconds"].mean()),
                peak_mb=float(lines["peak_mb"].max()),
                note=lines["note"].iloc[0],
            )
        )
    return rows


# ---- the way from the frozen model to the ceiling -------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """The way from the frozen model to a ceiling.

    Args:
        ceiling: name of its row.
        weights: column key -> weight :math:`w_c`, in the order of the columns.
        offset: :math:`o`.
    """

    ceiling: str
    weights: Mapping[str, float]
    offset: float

    def share(self, scores: Mapping[str, float] | pd.DataFrame) -> float | pd.Series:
        """How far scores by column key are on the way; of a frame for each line, NaN where one is missing."""
        return sum(weight * scores[key] for key, weight in self.weights.items()) - self.offset


def way_between(frame: pd.DataFrame, columns: Sequence[Column]) -> tuple[Way | None, str]:
    """The way on which a table measures its rows, and a sentence that explains it or says why there is none.

    Args:
        frame: as :func:`score_frame` makes it.
        columns: of the table.

    Returns:
        None and an empty sentence where no column is averaged, or the table lacks the scores of the frozen
        model or of a ceiling; None and a sentence where a ceiling is not far enough above the frozen model.
    """
    averaged = averaged_columns(columns)
    keys = [column.key for column in averaged]
    frozen = _means(frame, FROZEN, keys)
    ceilings = {name: _means(frame, name, keys) for name in CEILINGS}
    name = next((name for name, means in ceilings.items() if means is not None), None)
    if not keys or frozen is None or name is None:
        return None, ""
    gains, title = ceilings[name] - frozen, METHODS[name].title
    low = [column.heading for column in averaged if gains[column.key] < MARGIN]
    if low:
        return None, (
            f"{WAY.heading} is not shown: {title} is not {100 * MARGIN:.0f} points above "
            f"{METHODS[FROZEN].title} in {listed(low)}"
        )
    sizes = Counter(map(_task, keys))
    weights = {key: float(1 / (len(sizes) * sizes[_task(key)] * gains[key])) for key in keys}
    way = Way(title, weights, float(sum(weight * frozen[key] for key, weight in weights.items())))
    return way, (
        f"{WAY.heading} = share of the way from {METHODS[FROZEN].title} (0) to {title} (100): mean over "
        f"tasks, in each over its columns among {listed([column.heading for column in averaged])}"
    )


def with_way(columns: Sequence[Column]) -> tuple[Column, ...]:
    """The columns with :data:`WAY` after the average, or after the last column that enters it."""
    last = AVERAGE if AVERAGE in columns else averaged_columns(columns)[-1]
    place = list(columns).index(last) + 1
    return (*columns[:place], WAY, *columns[place:])


def _means(frame: pd.DataFrame, method: str, keys: Sequence[str]) -> pd.Series | None:
    """A row's mean scores over seeds; None unless it has all of them."""
    if not set(keys) <= set(frame.columns):
        return None
    means = frame.loc[frame["row"] == method, list(keys)].mean()
    return None if means.isna().any() else means


def _task(key: str) -> str:
    """The task that a column belongs to."""
    return key.rpartition(".")[0]
