"""What a results table is, and how runs become one: rows, comparisons with a baseline, notes.

:mod:`experiments.tables.render` and :mod:`experiments.tables.figure` print it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from attngraph.errors import UserError
from experiments.methods import method_named
from experiments.methods.method import ADAPTERS, ATTRIBUTION, REFERENCE
from experiments.runs.answering import in_words
from experiments.tables.compare import BASELINE, compare_pairs, compare_with_baseline
from experiments.tables.frame import (
    FROZEN,
    WAY,
    Row,
    rows_from_frame,
    score_frame,
    scored,
    table_columns,
    way_between,
    with_way,
)
from experiments.tables.published import Published, of_drawn, published_blocks, published_for
from experiments.tables.runs import Run, distinct
from experiments.tasks.task import Column, Task

GROUPS = (ADAPTERS, ATTRIBUTION, REFERENCE)
LEVEL = 0.05  # of Holm-adjusted p values


@dataclass(frozen=True)
class Table:
    """Rows, columns, and what to say about them.

    Args:
        title: printed on top.
        rows: in order; printed group by group.
        columns: in order, as :func:`experiments.tables.frame.table_columns` derives them from tasks.
        baseline: name of the row that the others are compared with.
        comparisons: one dictionary for each row and column that was compared with the baseline, as
            :func:`experiments.tables.compare.compare_with_baseline` returns them.
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


@dataclass(frozen=True)
class Design:
    """How a table presents runs.

    Args:
        stem: of its files' names.
        baseline: the method with which rows are compared.
        published: numbers from elsewhere that it can show.
        blocks: method -> the block in which its row stands; others stand where the method says.
        contenders: the methods that are compared with the baseline, and among which the best is marked; None
            for the GNN adapters (compared: pGNN's controls as well).
        contest: what the contenders are, in words.
    """

    stem: str = "ablation"
    baseline: str = BASELINE
    published: Sequence[Published] = field(default_factory=lambda: [of_drawn(published_blocks()["gnn"])])
    blocks: Mapping[str, str] = field(default_factory=dict)
    contenders: Sequence[str] | None = None
    contest: str = "GNN adapter"


def make_table(
    runs: Sequence[Run],
    tasks: Mapping[str, Task],
    title: str,
    notes: Sequence[str] = (),
    design: Design | None = None,
    compare: bool = True,
) -> Table:
    """The table of finished runs, with significance of contenders against the baseline where both ran.

    Args:
        runs: in the order of the table's rows; a run that two rows show is given for both.
        tasks: the table's tasks in the order of its columns.
        title: printed on top.
        notes: what else is to be said.
        design: how it presents them; None for the GNN ablation.
        compare: whether rows are compared.

    Raises:
        UserError: runs and tasks do not fit together, or a run's statistics cannot be read.
    """
    design = design or Design()
    shown = scored(tasks, runs)
    columns, frame = table_columns(shown), score_frame(runs, tasks)
    way, about_way = way_between(frame, columns)
    if way:
        columns, frame = with_way(columns), frame.assign(**{WAY.key: way.share(frame)})
    counts = [_counts([run for run in runs if run.task == name], task) for name, task in tasks.items()]
    blocks = {method_named(name).title: block for name, block in design.blocks.items()}
    rows = [replace(row, group=blocks.get(row.name, row.group)) for row in rows_from_frame(frame, columns)]
    contenders, means = design.contenders, {WAY.key: way.weights} if way else None
    return Table(
        title,
        rows,
        columns,
        baseline=method_named(design.baseline).title,
        comparisons=_comparisons(runs, shown, design, means) if compare else (),
        notes=[
            *filter(None, [about_way, *counts, *notes, _about_trainable(runs)]),
            "Time: training and scoring of all tasks for one seed, in one of several parallel workers; "
            "peak memory of that worker",
        ],
        published=published_for(columns, design.published),
        contenders=None if contenders is None else {method_named(name).title for name in contenders},
        contest=design.contest,
    )


def _about_trainable(runs: Sequence[Run]) -> str | None:
    """A sentence where a row trains more on one task than on another."""
    counts: dict[str, set[int]] = {}
    for run in runs:
        counts.setdefault(run.row, set()).add(run.result["parameters"])
    if all(len(of_row) == 1 for of_row in counts.values()):
        return None
    return "Trainable: the largest number of the row's tasks, which differ"


def _comparisons(
    runs: Sequence[Run],
    tasks: Mapping[str, Task],
    design: Design,
    means: Mapping[str, Mapping[str, float]] | None,
) -> list[dict[str, Any]]:
    """Each contender against the baseline."""
    if design.contenders is None:
        return compare_with_baseline(runs, tasks, design.baseline, means)
    present = {run.row for run in runs}
    others = [name for name in design.contenders if name in present and name != design.baseline]
    return compare_pairs(runs, tasks, [(name, design.baseline) for name in others], means=means)


def _counts(runs: Sequence[Run], task: Task) -> str:
    """How many examples a task's runs used, and how they were answered and scored; empty without runs."""
    if not runs:
        return ""
    trained, scored = (max(run.result[what] for run in runs) for what in ("trained_on", "examples"))
    parts = [f"{task.title}: {trained} training and {scored} {runs[0].result['split']} examples"]
    for what, of_run in (
        ("", lambda result: in_words(result.get("answering", {}))),
        ("scored by ", lambda result: result.get("evaluator", "")),
        (f"{runs[0].result['split']} is the split ", lambda result: result.get("source", "")),
    ):
        said = dict.fromkeys(of_run(run.result) for run in runs)
        parts += [what + " or ".join(filter(None, said))] if any(said) else []
    return "; ".join(parts)


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
        method = run.method
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
