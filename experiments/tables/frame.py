r"""The scores of finished runs, in the common form for tables, comparisons and details: columns, a frame with
a line for each row and seed, and the weighted sum of each column.

**Way** is a mean in which no column dominates: the fraction of the way from the frozen model to an upper
reference. CIDEr is several times as large as the other scores, so a plain mean of columns follows CIDEr. Here
each column is relative to the gain from training, and each task has the same weight, regardless of its number
of columns:

.. math:: \text{Way} = \frac{1}{T} \sum_t \frac{1}{|C_t|} \sum_{c \in C_t} \frac{s_c - f_c}{g_c - f_c}
    = \sum_c w_c s_c - o,

over the columns :math:`C_t` of task :math:`t` that enter the table's Avg, with the score :math:`s_c` of a
run, :math:`f_c` of the frozen model and :math:`g_c` of the upper reference. The last two are means over
seeds, which do not add to a row's spread over seeds. The frozen model is at 0, the upper reference at 1; a
row may be outside this range. The upper reference is fine-tuning of the text decoder, which contains the
adapters, or else full fine-tuning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from attngraph.errors import UserError
from attngraph.experiments.methods.method import METHODS
from attngraph.experiments.tables.runs import Run
from attngraph.experiments.tasks import TASKS
from attngraph.experiments.tasks.task import Column, Task

if TYPE_CHECKING:
    import pandas as pd

AVERAGE = Column("avg", "Avg")  # the mean of the averaged columns; no task has a key without a dot
WAY = Column("way", "Way")  # no task's either
FROZEN, CEILINGS = "frozen", ("decoder", "full")  # methods; the first of the ceilings that the table has
#: Minimum lead of the upper reference over the frozen model in every column: a small divisor amplifies noise.
MARGIN = 0.02
Weights = Mapping[str, float]  # column key -> weight in a sum of columns


@dataclass(frozen=True)
class Scores:
    """The scores of finished runs.

    Args:
        runs: the runs.
        columns: columns of their table, the average and Way after the last column that enters them.
        frame: result of :func:`score_frame`, with these two columns.
        weights: column key -> weights of the tasks' columns whose sum it is, up to a constant.
        about_way: a sentence that explains Way; empty if there is no such column.
    """

    runs: Sequence[Run]
    columns: tuple[Column, ...]
    frame: pd.DataFrame
    weights: Mapping[str, Weights]
    about_way: str


def scores_of(runs: Sequence[Run], tasks: Mapping[str, Task] | None = None) -> Scores:
    """The scores of runs.

    Args:
        runs: the runs in the order of the table's rows; a run shared by two rows occurs for both.
        tasks: the tasks in the order of the columns; None for all tasks of the runs.

    Raises:
        UserError: there is a duplicate run.
    """
    if tasks is None:
        names = {run.task for run in runs}
        tasks = {name: task for name, task in TASKS.items() if name in names}
    frame = score_frame(runs)
    columns = [c for c in table_columns(tasks) if not c.optional or c.key in frame]
    weights: dict[str, Weights] = {column.key: {column.key: 1.0} for column in columns}
    averaged = averaged_keys(columns)
    if AVERAGE in columns:
        frame[AVERAGE.key] = frame.reindex(columns=averaged).mean(axis=1, skipna=False)
        weights[AVERAGE.key] = {key: 1 / len(averaged) for key in averaged}
    of_way, offset, about = way_between(frame, columns)
    if of_way:
        last = AVERAGE.key if AVERAGE in columns else averaged[-1]
        columns.insert(list(weights).index(last) + 1, WAY)
        frame[WAY.key] = sum(weight * frame[key] for key, weight in of_way.items()) - offset
        weights[WAY.key] = of_way
    return Scores(runs, tuple(columns), frame, weights, about)


def table_columns(tasks: Mapping[str, Task]) -> tuple[Column, ...]:
    """The columns of all tasks in their order, and, after the last column that enters the average, the
    average, if at least two columns enter it. A heading shared by several columns is replaced by their keys.
    """
    columns = [column for task in tasks.values() for column in task.columns]
    headings = Counter(column.heading for column in columns)
    columns = [c if headings[c.heading] == 1 else replace(c, heading=c.key) for c in columns]
    averaged = [place for place, column in enumerate(columns) if column.averaged]
    if len(averaged) > 1:
        columns.insert(averaged[-1] + 1, AVERAGE)
    return tuple(columns)


def averaged_keys(columns: Sequence[Column]) -> list[str]:
    """The keys of the columns whose mean is the table's average."""
    return [column.key for column in columns if column.averaged]


def task_of(key: str) -> str:
    """The task of a column."""
    return key.rpartition(".")[0]


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
        name: name in printed output.
        group: its block of the table.
        scores: column key -> mean and spread over seeds, as fractions; a missing key is printed as "–".
        seconds: training and scoring time of one seed.
        note: a remark, printed under the table.
    """

    name: str
    group: str
    scores: Mapping[str, Summary]
    parameters: int = 0
    seconds: float = 0.0
    peak_mb: float = 0.0
    note: str = ""


def score_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """A line for each row and seed: ``row`` (the method), its ``name`` and ``group``, ``seed``, ``note``, the
    scores by column key (NaN if a task was not run), and the costs of all tasks.

    Raises:
        UserError: there is a duplicate run.
    """
    import pandas as pd

    lines: dict[tuple[str, int], dict[str, Any]] = {}
    seen = set()
    for run in runs:
        if (run.row, run.task, run.seed) in seen:
            raise UserError(f"there are two runs of {run}: remove one of them")
        seen.add((run.row, run.task, run.seed))
        about = {"row": run.row, "name": run.method.title, "group": run.method.group, "seed": run.seed}
        about |= {"note": run.method.note, "seconds": 0.0, "parameters": 0, "peak_mb": 0.0}
        line = lines.setdefault((run.row, run.seed), about)
        line.update(run.result["scores"])
        line["seconds"] += run.result["train_seconds"] + run.result["eval_seconds"]
        line["parameters"] = max(line["parameters"], run.result["parameters"])
        line["peak_mb"] = max(line["peak_mb"], run.result["peak_mb"])
    return pd.DataFrame(list(lines.values()), columns=None if lines else ["row", "name", "group", "seed"])


def rows_from_frame(frame: pd.DataFrame, columns: Sequence[Column]) -> list[Row]:
    """Rows from one line for each row and seed."""
    rows = []
    for _, lines in frame.groupby("row", sort=False):
        scores = {column.key: lines[column.key].dropna() for column in columns if column.key in lines}
        rows.append(
            Row(
                name=lines["name"].iloc[0],
                group=lines["group"].iloc[0],
                scores={key: summarise(values) for key, values in scores.items() if len(values)},
                parameters=int(lines["parameters"].max()),
                seconds=float(lines["seconds"].mean()),
                peak_mb=float(lines["peak_mb"].max()),
                note=lines["note"].iloc[0],
            )
        )
    return rows


def way_between(frame: pd.DataFrame, columns: Sequence[Column]) -> tuple[Weights, float, str]:
    """The weights :math:`w_c` and the offset :math:`o` of Way, and a sentence that explains it. There are no
    weights if no column is averaged, if the table lacks the scores of the frozen model or of an upper
    reference, or if the upper reference is not :data:`MARGIN` above the frozen model.
    """
    keys = averaged_keys(columns)
    means = {name: frame.reindex(columns=keys)[frame["row"] == name].mean() for name in (FROZEN, *CEILINGS)}
    whole = [name for name, of_row in means.items() if not of_row.isna().any()]
    name = next((name for name in CEILINGS if name in whole), None)
    if not keys or FROZEN not in whole or name is None:
        return {}, 0.0, ""
    frozen = means[FROZEN]
    gains = means[name] - frozen
    if gains.min() < MARGIN:
        return {}, 0.0, ""
    sizes = Counter(map(task_of, keys))
    weights = {key: float(1 / (len(sizes) * sizes[task_of(key)] * gains[key])) for key in keys}
    offset = float(sum(weight * frozen[key] for key, weight in weights.items()))
    about = (
        f"{WAY.heading} = fraction of the way from {METHODS[FROZEN].title} (0) to {METHODS[name].title} "
        "(100): mean over tasks, in each over the columns that enter Avg"
    )
    return weights, offset, about
