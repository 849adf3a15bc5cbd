"""What stands behind a table, as Markdown: scores by kind and seed, what adapters do, p values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from experiments.methods.graph_adapter import method_named
from experiments.report.effects import effects_markdown, learned_markdown
from experiments.report.markdown import kinds_markdown, markdown_table
from experiments.report.rows import score_frame, summarise
from experiments.report.runs import Run, distinct
from experiments.report.table import Summary, Table
from experiments.report.training import training_markdown
from experiments.report.wording import MISSING, scope
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
            parts.append(kinds_markdown(scores, f"{task.title}: scores by kind", "Kind"))
    parts += filter(None, [training_markdown(runs, tasks)])
    parts.append("**Every seed**\n\n" + seeds_markdown(score_frame(runs, tasks), table.columns))
    parts += filter(None, (effects_markdown(runs, task) for task in tasks.values()))
    parts += filter(None, [learned_markdown(runs, tasks)])
    if table.comparisons:
        headings = {column.key: column.heading for column in table.columns}
        parts.append(significance_markdown(table.comparisons, headings))
    return "\n".join(parts)


def seeds_markdown(frame: pd.DataFrame, columns: Sequence[Column]) -> str:
    """:func:`seeds_lines` as a table."""
    return markdown_table(*seeds_lines(frame, columns))


def seeds_lines(frame: pd.DataFrame, columns: Sequence[Column]) -> tuple[list[str], list[list[str]]]:
    """Headings, and every seed's scores, from the frame that :func:`experiments.report.rows.rows_from_frame`
    takes.
    """
    shown = [column for column in columns if column.key in frame]
    lines = []
    for _, line in frame.iterrows():
        cells = [
            MISSING if pd.isna(line[column.key]) else f"{100 * line[column.key]:z.2f}" for column in shown
        ]
        lines.append([line["name"], str(line["seed"]), *cells])
    return ["Method", "Seed", *(column.heading for column in shown)], lines


SIGNIFICANCE_HEAD = (
    "Rows", "Column", "Difference", "95 % interval", "p", "p (Holm)", "Seeds",
    "By checkpoint", "New checkpoints: 95 % interval", "p", "p (Holm)",
)  # fmt: skip


def significance_cells(comparison: Mapping[str, Any], headings: Mapping[str, str]) -> list[str]:
    """What stands under :data:`SIGNIFICANCE_HEAD`, of a line of
    :func:`experiments.report.comparison.compare_pairs`.
    """
    new = [MISSING] * 4
    if comparison["new_p"] is not None:
        new = [
            " ".join(f"{100 * difference:+.2f}" for difference in comparison["by_checkpoint"]),
            _interval(comparison["new_low"], comparison["new_high"]),
            f"{comparison['new_p']:.4f}",
            f"{comparison['new_p_holm']:.3f}",
        ]
    return [
        f"{comparison['row']} − {comparison['baseline']}",
        headings[comparison["column"]],
        f"{100 * comparison['difference']:+.2f}",
        _interval(comparison["low"], comparison["high"]),
        f"{comparison['p']:.4f}",
        f"{comparison['p_holm']:.3f}",
        str(comparison["seeds"]),
        *new,
    ]


def significance_markdown(
    comparisons: Sequence[Mapping[str, Any]], headings: Mapping[str, str], about: str = ""
) -> str:
    """The comparisons of a table.

    Args:
        comparisons: as :func:`experiments.report.comparison.compare_pairs` returns them.
        headings: column key -> heading.
        about: a sentence on what is not compared.
    """
    said = f"{scope(comparisons)} {about}".strip()
    title = f"**Significance.** {said} Holm's correction is over this table."
    lines = [significance_cells(comparison, headings) for comparison in comparisons]
    return f"{title}\n\n{markdown_table(SIGNIFICANCE_HEAD, lines)}"


def _interval(low: float, high: float) -> str:
    return f"{100 * low:+.2f} to {100 * high:+.2f}"


def _scores_by_kind(runs: Sequence[Run]) -> dict[str, dict[str, Summary]]:
    """Method's title -> kind (of question, or of what a caption says) -> score over seeds."""
    values: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        of_row = values.setdefault(method_named(run.row).title, {})
        for kind, (score, _) in run.result["kinds"].items():
            of_row.setdefault(kind, []).append(score)
    return {row: {kind: summarise(scores) for kind, scores in kinds.items()} for row, kinds in values.items()}
