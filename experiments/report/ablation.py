"""From runs to a table, and to the files of a results folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.files import published, write_json, write_text
from experiments.methods.graph_adapter import method_named
from experiments.report.columns import WAY, scored, table_columns
from experiments.report.comparison import BASELINE, compare_pairs, compare_with_baseline
from experiments.report.csv_file import write_csv
from experiments.report.details import details_markdown
from experiments.report.latex import render_latex
from experiments.report.markdown import render_markdown
from experiments.report.published import Published, of_drawn, published_blocks, published_for
from experiments.report.rows import rows_from_frame, score_frame
from experiments.report.runs import Run, distinct
from experiments.report.table import Table
from experiments.report.text import render_text
from experiments.report.way import way_between, with_way
from experiments.tasks.task import Task
from experiments.training.answering import in_words

SIGNIFICANCE, DETAILS, RESULTS = "significance.json", "details.md", "results.json"


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
) -> Table:
    """The table of finished runs, with significance of contenders against the baseline where both ran.

    Args:
        runs: in the order of the table's rows; a run that two rows show is given for both.
        tasks: the table's tasks in the order of its columns.
        title: printed on top.
        notes: what else is to be said.
        design: how it presents them; None for the GNN ablation.

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
    contenders = design.contenders
    return Table(
        title,
        rows,
        columns,
        baseline=method_named(design.baseline).title,
        comparisons=_comparisons(runs, shown, design, {WAY.key: way.weights} if way else None),
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


def save_results(
    runs: Sequence[Run],
    tasks: Mapping[str, Task],
    table: Table,
    out: Path,
    about: Mapping[str, Any] | None = None,
    stem: str = Design.stem,
) -> dict[str, Path]:
    """Write a table and all that stands behind it; the files appear together when all are written.

    Args:
        runs: of the table.
        tasks: of the table.
        table: as :func:`make_table` makes it of them.
        out: folder; its other files stay.
        about: what else is written into ``results.json``, such as with what runs were made.
        stem: of the names of the table's own files.

    Returns:
        What a file holds -> its path: ``txt``, ``md``, ``tex``, ``csv`` and ``png`` for the table,
        ``significance``, ``details`` and ``results``.
    """
    with published(out) as part:
        written = save_table(table, part, stem)
        written["significance"] = write_json(part / SIGNIFICANCE, table.comparisons)
        written["details"] = write_text(part / DETAILS, details_markdown(runs, tasks, table))
        content = {"cells": [run.result for run in distinct(runs)], **(about or {})}
        written["results"] = write_json(part / RESULTS, content, default=float)
    return {what: out / path.name for what, path in written.items()}


def save_table(table: Table, folder: str | Path, stem: str = Design.stem) -> dict[str, Path]:
    """Write a table as ``<stem>.txt``, ``.md``, ``.tex``, ``.csv`` and ``.png``; returns suffix -> path."""
    from experiments.report.figure import draw_png  # matplotlib is slow to import

    folder = Path(folder)
    paths = {}
    for suffix, render in (("txt", render_text), ("md", render_markdown), ("tex", render_latex)):
        paths[suffix] = write_text(folder / f"{stem}.{suffix}", render(table))
    paths["csv"] = write_csv(table, folder / f"{stem}.csv")
    paths["png"] = draw_png(table, folder / f"{stem}.png")
    return paths


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
