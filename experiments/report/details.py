"""What stands behind a table, as Markdown: scores per question type and seed, p values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from experiments.methods.graph_adapter import method_named
from experiments.report.markdown import escape, kinds_markdown, markdown_table
from experiments.report.rows import score_frame, summarise
from experiments.report.runs import Run, distinct
from experiments.report.table import Summary, Table
from experiments.report.wording import MISSING
from experiments.tasks.task import Column, Task


def details_markdown(runs: Sequence[Run], tasks: Mapping[str, Task], table: Table) -> str:
    """All details of a table. A run that two rows show is listed once.

    Args:
        runs: of the table.
        tasks: of the table.
        table: as :func:`experiments.report.ablation.make_table` makes it of them.
    """
    runs = distinct(runs)
    parts = []
    for task in tasks.values():
        scores = _scores_by_kind([run for run in runs if run.task == task.name])
        if scores:
            parts.append(kinds_markdown(scores, f"{task.title}: score per question type"))
    parts.append("**Every seed**\n\n" + seeds_markdown(score_frame(runs, tasks), table.columns))
    learned = [_learned(run) for run in runs if run.result["learned"]]
    if learned:
        parts.append("**Learned scalars**\n\n" + "\n".join(learned) + "\n")
    if table.comparisons:
        parts.append(significance_markdown(table))
    return "\n".join(parts)


def seeds_markdown(frame: pd.DataFrame, columns: Sequence[Column]) -> str:
    """Every seed's scores, from the frame that :func:`experiments.report.rows.rows_from_frame` takes."""
    shown = [column for column in columns if column.key in frame]
    lines = []
    for _, line in frame.iterrows():
        cells = [
            MISSING if pd.isna(line[column.key]) else f"{100 * line[column.key]:.2f}" for column in shown
        ]
        lines.append([line["name"], line["seed"], *cells])
    return markdown_table(["Method", "Seed", *(column.heading for column in shown)], lines)


def significance_markdown(table: Table) -> str:
    """The comparisons of a table with its baseline."""
    headings = {column.key: column.heading for column in table.columns}
    head = ["GNN", "Column", f"Difference to {table.baseline}", "95 % interval", "p", "p (Holm)"]
    lines = [
        [
            comparison["row"],
            headings[comparison["column"]],
            f"{100 * comparison['difference']:+.2f}",
            f"{100 * comparison['low']:+.2f} to {100 * comparison['high']:+.2f}",
            f"{comparison['p']:.3f}",
            f"{comparison['p_holm']:.3f}",
        ]
        for comparison in table.comparisons
    ]
    title = "**Significance** (paired bootstrap over seeds and images, Holm-corrected over the table)"
    return f"{title}\n\n{markdown_table(head, lines)}"


def _scores_by_kind(runs: Sequence[Run]) -> dict[str, dict[str, Summary]]:
    """Method's title -> question type -> score over seeds."""
    values: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        of_row = values.setdefault(method_named(run.row).title, {})
        for kind, (score, _) in run.result["kinds"].items():
            of_row.setdefault(kind, []).append(score)
    return {row: {kind: summarise(scores) for kind, scores in kinds.items()} for row, kinds in values.items()}


def _learned(run: Run) -> str:
    numbers = ", ".join(f"{name} {value:.3f}" for name, value in run.result["learned"].items())
    return f"- {escape(method_named(run.row).title)}, {run.task}, seed {run.seed}: {escape(numbers)}"
