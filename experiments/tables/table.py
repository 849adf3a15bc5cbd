"""What a results table is, and how runs become one: rows, comparisons with a baseline, published numbers.

:mod:`experiments.tables.render` and :mod:`experiments.tables.figure` print it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from experiments.base.messages import check_known
from experiments.methods import method_named
from experiments.methods.method import ADAPTERS, ATTRIBUTION, REFERENCE
from experiments.runs.answering import in_words
from experiments.tables.compare import compare_pairs, compare_with_baseline
from experiments.tables.frame import (
    AVERAGE,
    FROZEN,
    WAY,
    Row,
    Summary,
    rows_from_frame,
    score_frame,
    scored,
    table_columns,
    way_between,
    with_way,
)
from experiments.tables.grid import Grid
from experiments.tables.runs import Run, distinct
from experiments.tasks.task import Column, Task

GROUPS = (ADAPTERS, ATTRIBUTION, REFERENCE)
LEVEL = 0.05  # of Holm-adjusted p values
MISSING = "–"
FILE = Path(__file__).with_name("published.yaml")
LABEL = "Published numbers, another scale: {about}; not comparable with the rows above"
ABLATION = Grid(about="the GNN ablation", seeds={"gcn": 1})


def number(score: Summary | None) -> str:
    """A score times 100, with its standard deviation if it has one."""
    if score is None:
        return MISSING
    return f"{100 * score.mean:z.1f}" + ("" if score.std is None else f" ± {100 * score.std:.1f}")


# ---- numbers from elsewhere -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """A block of published numbers, of a larger model on other data sets, below a table's own.

    Args:
        label: printed above the block.
        rows: name -> column key -> number as printed.
        averaged: keys of the columns that the block's average is the mean of.
    """

    label: str
    rows: Mapping[str, Mapping[str, str]]
    averaged: frozenset[str] = frozenset()


def published_blocks() -> dict[str, Published]:
    """Every block of ``published.yaml`` by its name; a row's numbers are in the order of its columns."""
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {
        name: Published(
            LABEL.format(about=block["about"]),
            {row: dict(zip(block["columns"], numbers.split())) for row, numbers in block["rows"].items()},
            frozenset(block["averaged"]),
        )
        for name, block in content.items()
    }


def published_in(grid: Grid) -> list[Published]:
    """The blocks that a grid names.

    Raises:
        UserError: it names an unknown one.
    """
    blocks = published_blocks()
    check_known([*grid.published, *blocks], list(blocks), "block of published numbers")
    return [blocks[name] for name in grid.published]


def published_for(columns: Sequence[Column], blocks: Iterable[Published]) -> tuple[Published, ...]:
    """The parts of blocks that a table with these columns can show; blocks without such a part are left out.

    Means over columns are kept only where the table takes them over the same columns.
    """
    averaged, shown = {column.key for column in columns if column.averaged}, []
    for block in blocks:
        kept = {column.key for column in columns}
        if averaged != block.averaged:
            kept -= {AVERAGE.key, WAY.key}
        rows = {
            name: {key: number for key, number in numbers.items() if key in kept}
            for name, numbers in block.rows.items()
        }
        if any(rows.values()):
            shown.append(Published(block.label, rows, block.averaged))
    return tuple(shown)


# ---- a table --------------------------------------------------------------------------------------------


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

    @property
    def groups(self) -> dict[str, list[Row]]:
        """Group -> rows, known groups first; every row exactly once."""
        order = dict.fromkeys([*GROUPS, *(row.group for row in self.rows)])
        rows = {group: [row for row in self.rows if row.group == group] for group in order}
        return {group: members for group, members in rows.items() if members}

    @property
    def headings(self) -> dict[str, str]:
        """Column key -> heading."""
        return {column.key: column.heading for column in self.columns}

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


def make_table(
    runs: Sequence[Run],
    tasks: Mapping[str, Task],
    title: str,
    grid: Grid = ABLATION,
    notes: Sequence[str] = (),
    compare: bool = True,
) -> Table:
    """The table of finished runs, with significance of contenders against the baseline where both ran.

    Args:
        runs: in the order of the table's rows; a run that two rows show is given for both.
        tasks: the table's tasks in the order of its columns.
        title: printed on top.
        grid: what it says of blocks, baseline, contenders, published numbers and notes. Where it names no
            contenders, pGNN's controls are compared with the baseline too.
        notes: what else is to be said.
        compare: whether rows are compared.

    Raises:
        UserError: runs and tasks do not fit together, or an unknown block of published numbers.
    """
    shown = scored(tasks, runs)
    columns, frame = table_columns(shown), score_frame(runs)
    way, about_way = way_between(frame, columns)
    if way:
        columns, frame = with_way(columns), frame.assign(**{WAY.key: way.share(frame)})
    counts = [_counts([run for run in runs if run.task == name], task) for name, task in tasks.items()]
    titles = {method_named(name).title: block for name, block in grid.blocks.items()}
    rows = [replace(row, group=titles.get(row.name, row.group)) for row in rows_from_frame(frame, columns)]
    contenders, means = grid.contenders, {WAY.key: way.weights} if way else None
    return Table(
        title,
        rows,
        columns,
        baseline=method_named(grid.baseline).title,
        comparisons=_comparisons(runs, shown, grid, means) if compare else (),
        notes=[
            *filter(None, [about_way, *counts, *grid.notes, *notes, _about_trainable(runs)]),
            "Time: training and scoring of all tasks for one seed, in one of several parallel workers; "
            "peak memory of that worker",
        ],
        published=published_for(columns, published_in(grid)),
        contenders=None if contenders is None else {method_named(name).title for name in contenders},
        contest=grid.contest,
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
    grid: Grid,
    means: Mapping[str, Mapping[str, float]] | None,
) -> list[dict[str, Any]]:
    """Each contender against the baseline."""
    if grid.contenders is None:
        return compare_with_baseline(runs, tasks, grid.baseline, means)
    present = {run.row for run in runs}
    others = [name for name in grid.contenders if name in present and name != grid.baseline]
    return compare_pairs(runs, tasks, [(name, grid.baseline) for name in others], means=means)


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


def below_frozen(runs: Sequence[Run]) -> str:
    """A sentence on how many trained runs score less in some column than the frozen model with the same
    pre-trained weights: a large deficit may come from a learning rate that does not suit. Runs that are not
    shown the image are left out: for them it is no failure. Empty where no run can be compared.
    """
    frozen = {(run.task, run.checkpoint): run.result["scores"] for run in runs if run.row == FROZEN}
    below = [
        any(score < base.get(key, -math.inf) for key, score in run.result["scores"].items())
        for run in distinct(runs)
        if run.method.trains
        and run.method.vision != "zero"
        and (base := frozen.get((run.task, run.checkpoint))) is not None
    ]
    if not below:
        return ""
    end = "trained run ends" if len(below) == 1 else "trained runs end"
    return (
        f"{sum(below)} of {len(below)} {end} below the frozen model with the same pre-trained weights in "
        "some column"
    )
