r"""A mean in which no column dominates: the share of the way from the frozen model to the ceiling.

CIDEr is several times as large as the other scores, so a plain mean of columns follows CIDEr. Here each
column is measured by what training can gain in it, and each task weighs the same, however many columns
it has:

.. math:: \text{Way} = \frac{1}{T} \sum_t \frac{1}{|C_t|} \sum_{c \in C_t} \frac{s_c - f_c}{g_c - f_c}
    = \sum_c w_c s_c - o,

over the columns :math:`C_t` of task :math:`t` that enter the table's Avg, with the score :math:`s_c` of a
run, :math:`f_c` of the frozen model and :math:`g_c` of the ceiling. The last two are means over seeds:
constants, so that a row's spread over seeds is its own. The frozen model is at 0, the ceiling at 1; a row may
lie beyond either.

The ceiling is the fine-tuning of the text decoder, where adapters sit, or else full fine-tuning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from experiments.methods.method import METHODS
from experiments.report.columns import AVERAGE, WAY, averaged_columns
from experiments.report.wording import listed
from experiments.tasks.task import Column

FROZEN, CEILINGS = "frozen", ("decoder", "full")  # methods; the first of the ceilings that the table has
MARGIN = (
    0.02  # of the ceiling over the frozen model, in every column: below it, noise would be divided by little
)


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
        frame: as :func:`experiments.report.rows.score_frame` makes it.
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
    if method not in METHODS or not set(keys) <= set(frame.columns):
        return None
    means = frame.loc[frame["name"] == METHODS[method].title, list(keys)].mean()
    return None if means.isna().any() else means


def _task(key: str) -> str:
    """The task that a column belongs to."""
    return key.rpartition(".")[0]
