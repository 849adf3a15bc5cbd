"""A results table and its construction from runs: rows, comparisons with a baseline, published numbers.

:mod:`attngraph.experiments.tables.render` and :mod:`attngraph.experiments.tables.figure` print it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from attngraph.experiments.base.messages import check_known
from attngraph.experiments.methods import GraphAdapter, method_named
from attngraph.experiments.methods.method import ADAPTERS
from attngraph.experiments.runs.answering import in_words
from attngraph.experiments.tables.compare import compare_pairs, contenders
from attngraph.experiments.tables.frame import AVERAGE, FROZEN, Row, averaged_keys, rows_from_frame, scores_of
from attngraph.experiments.tables.grid import Grid
from attngraph.experiments.tables.runs import Run, distinct
from attngraph.experiments.tasks.task import Column, Task

ALPHA = 0.05  # of Holm-adjusted p values
FILE = Path(__file__).with_name("published.yaml")
LABEL = "Published numbers, another scale: {about}; not comparable with the rows above"
ABOUT_COSTS = (
    "Trainable and peak memory: the largest of the row's tasks. Time: training and scoring of all tasks for "
    "one seed, in one of several parallel workers"
)
ABLATION = Grid(about="the GNN ablation", seeds={"gcn": 1})

Published = Mapping[str, Mapping[str, Mapping[str, str]]]  # label -> name -> column key -> number as printed


def published_in(grid: Grid, columns: Sequence[Column] = ()) -> Published:
    """The numbers of a grid's blocks of ``published.yaml`` for the table's columns; averages only if the
    table's average is over the same columns.

    Raises:
        UserError: the grid contains an unknown block.
    """
    blocks = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    check_known([*grid.published, *blocks], list(blocks), "block of published numbers")
    shown = {}
    for block in (blocks[name] for name in grid.published):
        kept = {column.key for column in columns}
        if set(averaged_keys(columns)) != set(block["averaged"]):
            kept -= {AVERAGE.key}
        if kept & set(block["columns"]):
            shown[LABEL.format(about=block["about"])] = {
                row: {key: one for key, one in zip(block["columns"], numbers.split()) if key in kept}
                for row, numbers in block["rows"].items()
            }
    return shown


@dataclass(frozen=True)
class Axis:
    """A number that distinguishes rows.

    Args:
        label: label of the axis.
        of: the number of a method; None if it does not have one.
        show: a number as text.
        log: whether the axis is logarithmic.
    """

    label: str
    of: Callable[[GraphAdapter], float | None]
    show: Callable[[float], str]
    log: bool = False


AXES = {
    "width": Axis(
        "bottleneck width / model width",
        lambda method: 1 / method.reduction if method.reduction else None,
        lambda width: f"1/{round(1 / width)}",
        log=True,
    ),
    "p": Axis("p (fixed)", lambda method: method.fixed.get("p"), "{:g}".format),
}


@dataclass(frozen=True)
class Table:
    """Rows, columns and notes.

    Args:
        title: title of the table.
        rows: rows in order; printed group by group.
        columns: columns in order.
        baseline: name of the row that the others are compared with.
        comparisons: one dictionary for each row and column that was compared with the baseline, as
            returned by :func:`attngraph.experiments.tables.compare.compare_pairs`.
        notes: sentences under the table.
        published: published numbers of a larger model on other datasets, in blocks below the others.
        contenders: names of the rows among which the best of a column is marked; None for the GNN adapters.
        contest: word for the contenders in notes.
        axis: the number that distinguishes the rows, if any.
        places: name of a row -> its number on the axis.
    """

    title: str
    rows: Sequence[Row]
    columns: Sequence[Column]
    baseline: str = "GCN"
    comparisons: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    published: Published = field(default_factory=dict)
    contenders: Collection[str] | None = None
    contest: str = "GNN adapter"
    axis: Axis | None = None
    places: Mapping[str, float] = field(default_factory=dict)

    @property
    def groups(self) -> dict[str, list[Row]]:
        """Group -> rows."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(row.group, []).append(row)
        return groups

    @property
    def headings(self) -> dict[str, str]:
        """Column key -> heading."""
        return {column.key: column.heading for column in self.columns}

    @property
    def p_adjusted(self) -> dict[tuple[str, str], float]:
        """Row and column key -> Holm-adjusted p-value of the row's difference from the baseline."""
        return {(line["row"], line["column"]): line["p_holm"] for line in self.comparisons}

    def best(self, key: str) -> set[str]:
        """Names of the contenders with the highest mean in a column; empty if only one has a score."""
        means = {
            row.name: row.scores[key].mean
            for row in self.rows
            if key in row.scores
            and (row.group == ADAPTERS if self.contenders is None else row.name in self.contenders)
        }
        return {name for name, mean in means.items() if len(means) > 1 and mean == max(means.values())}


def make_table(
    runs: Sequence[Run],
    tasks: Mapping[str, Task],
    title: str,
    grid: Grid = ABLATION,
    compare: bool = True,
) -> Table:
    """The table of finished runs, with significance of contenders against the baseline if both have runs.

    Args:
        runs: runs in the order of the table's rows; a run shared by two rows occurs for both.
        tasks: the table's tasks in the order of its columns.
        title: title of the table.
        grid: defines blocks, baseline, contenders, published numbers and notes. If it has no contenders,
            pGNN's controls are compared with the baseline, too.
        compare: whether rows are compared.

    Raises:
        UserError: runs and tasks do not match, or an unknown block of published numbers.
    """
    scores = scores_of(runs, tasks)
    blocks = {method_named(name).title: block for name, block in grid.blocks.items()}
    rows = rows_from_frame(scores.frame, scores.columns)
    compared = contenders(runs) if grid.contenders is None else grid.contenders
    pairs = [(name, grid.baseline) for name in compared if name != grid.baseline]
    if grid.contenders is None:
        marked = {run.method.title for run in runs if run.method.group == ADAPTERS}
    else:
        marked = {method_named(name).title for name in grid.contenders}
    counts = [_counts([run for run in runs if run.task == name], task) for name, task in tasks.items()]
    return Table(
        title,
        [replace(row, group=blocks.get(row.name, row.group)) for row in rows],
        scores.columns,
        baseline=method_named(grid.baseline).title,
        comparisons=compare_pairs(scores, pairs) if compare else (),
        notes=[*filter(None, [scores.about_way, *counts, *grid.notes, below_frozen(runs)]), ABOUT_COSTS],
        published=published_in(grid, scores.columns),
        contenders=marked,
        contest=grid.contest,
        **axis_of(grid),
    )


def axis_of(grid: Grid) -> dict[str, Any]:
    """The fields ``axis`` and ``places`` of a grid's table; none if its rows do not have the number."""
    if grid.axis is None:
        return {}
    axis = AXES[grid.axis]
    methods = [method for name in grid.blocks if isinstance(method := method_named(name), GraphAdapter)]
    places = {method.title: place for method in methods if (place := axis.of(method)) is not None}
    return {"axis": axis, "places": places} if places else {}


def _counts(runs: Sequence[Run], task: Task) -> str:
    """Numbers of examples of a task's runs, with their answering mode and evaluator; empty without runs."""
    if not runs:
        return ""
    trained, scored = (max(run.result[what] for run in runs) for what in ("trained_on", "examples"))
    split = runs[0].result["split"]
    parts = [f"{task.title}: {trained} training and {scored} {split} examples"]
    for what, of_run in (
        ("", lambda result: in_words(result.get("answering", {}))),
        ("scored by ", lambda result: result.get("evaluator", "")),
        (f"{split} is the split ", lambda result: result.get("source", "")),
    ):
        said = dict.fromkeys(filter(None, (of_run(run.result) for run in runs)))
        parts += [what + " or ".join(said)] if said else []
    return "; ".join(parts)


def below_frozen(runs: Sequence[Run]) -> str:
    """A sentence with the number of trained runs that score lower in some column than the frozen model with
    the same pre-trained weights; a large deficit may be due to an unsuitable learning rate. Runs without
    access to the image are skipped, since this is not a failure for them. Empty if no run can be compared.
    """
    frozen = {(run.task, run.checkpoint): run.result["scores"] for run in runs if run.row == FROZEN}
    below = [
        any(score < base.get(key, -math.inf) for key, score in run.result["scores"].items())
        for run in distinct(runs)
        if run.method.trains
        and not run.method.hides_image
        and (base := frozen.get((run.task, run.checkpoint))) is not None
    ]
    if not below:
        return ""
    end = "trained run ends" if len(below) == 1 else "trained runs end"
    return (
        f"{sum(below)} of {len(below)} {end} below the frozen model with the same pre-trained weights in "
        "some column"
    )
