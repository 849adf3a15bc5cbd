"""What a results table is: rows with scores, columns derived from tasks, comparisons with a baseline, notes.

The modules beside this one print it: :mod:`~experiments.report.text`, :mod:`~experiments.report.markdown`,
:mod:`~experiments.report.latex`, :mod:`~experiments.report.csv_file` and :mod:`~experiments.report.figure`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from attngraph.errors import UserError
from experiments.methods.method import ADAPTERS, ATTRIBUTION, REFERENCE
from experiments.report.published import Published
from experiments.tasks.task import Column

GROUPS = (ADAPTERS, ATTRIBUTION, REFERENCE)
LEVEL = 0.05  # of Holm-adjusted p values


class Summary(NamedTuple):
    """Mean over seeds, standard deviation over seeds (None for one seed), number of seeds."""

    mean: float
    std: float | None
    seeds: int


@dataclass(frozen=True)
class Row:
    """One method.

    Args:
        name: as printed.
        group: one of :data:`GROUPS`; others are printed after them.
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


@dataclass(frozen=True)
class Table:
    """Rows, columns, and what to say about them.

    Args:
        title: printed on top.
        rows: in order; printed group by group.
        columns: in order, as :func:`experiments.report.columns.table_columns` derives them from tasks.
        baseline: name of the row that the others are compared with.
        comparisons: one dictionary for each row and column that was compared with the baseline, as
            :func:`experiments.report.comparison.compare_with_baseline` returns them.
        notes: sentences under the table.
        published: numbers from elsewhere, printed in blocks of their own.
        contenders: names of the rows among which the best of a column is marked; None for the GNN adapters.
        contest: what these rows are, in words.

    Raises:
        UserError: two rows have the same name.
    """

    title: str
    rows: Sequence[Row]
    columns: Sequence[Column]
    baseline: str = "GCN"
    comparisons: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    published: Sequence[Published] = ()
    contenders: Collection[str] | None = None
    contest: str = "GNN adapter"

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise UserError(
                f"the table has several rows named {repeated[0]!r}; give each method its own name"
            )

    @property
    def groups(self) -> dict[str, list[Row]]:
        """Group -> rows, known groups first; every row exactly once."""
        order = dict.fromkeys([*GROUPS, *(row.group for row in self.rows)])
        rows = {group: [row for row in self.rows if row.group == group] for group in order}
        return {group: members for group, members in rows.items() if members}

    @property
    def has_spread(self) -> bool:
        """Whether any score comes from several seeds."""
        return any(score.std is not None for row in self.rows for score in row.scores.values())

    def contends(self, row: Row) -> bool:
        """Whether a row is one of those among which the best is marked."""
        return row.group == ADAPTERS if self.contenders is None else row.name in self.contenders

    def best(self, key: str) -> set[str]:
        """Names of the contenders with the highest mean in a column; none if only one has a score."""
        means = {
            row.name: row.scores[key].mean for row in self.rows if self.contends(row) and key in row.scores
        }
        if len(means) < 2:
            return set()
        return {name for name, mean in means.items() if mean == max(means.values())}

    def p_adjusted(self, row: str, key: str) -> float | None:
        """Holm-adjusted p value of a row's difference from the baseline in a column; None if not compared."""
        for comparison in self.comparisons:
            if (comparison["row"], comparison["column"]) == (row, key):
                return comparison["p_holm"]
        return None

    def differs(self, row: str, key: str) -> bool:
        """Whether a row differs from the baseline in a column after Holm's correction."""
        p = self.p_adjusted(row, key)
        return p is not None and p < LEVEL
