"""Finished runs on one page: a self-contained HTML file.

Each given folder of a table becomes one table; single runs become one common table. The content of the page
and its order are defined by ``page.html.jinja``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attngraph
from attngraph.experiments.base.messages import check_known
from attngraph.experiments.methods.method import METHODS, REFERENCE
from attngraph.experiments.runs.saved import SCORES
from attngraph.experiments.tables.compare import row_of, unlike
from attngraph.experiments.tables.details import details, significance
from attngraph.experiments.tables.render import content_of, rendered, scope
from attngraph.experiments.tables.runs import Run, saved_runs, versions_of
from attngraph.experiments.tables.table import ABLATION, make_table
from attngraph.experiments.tasks import TASKS

ALONE = "Single runs"


def page_of(folders: Sequence[Path], baseline: str | None = None) -> tuple[str, str]:
    """The page of finished runs, as HTML without scripts or network access, with a light and a dark theme;
    and a sentence about its content. All texts are escaped.

    Args:
        folders: folders for :func:`attngraph.experiments.tables.runs.saved_runs`.
        baseline: method that all trained rows are compared with; None for the baseline of the GNN ablation,
            with which GNN adapters are compared.

    Raises:
        UserError: no run has the baseline, or see :func:`~attngraph.experiments.tables.runs.saved_runs`.
    """
    alone = [folder for folder in folders if (folder / SCORES).is_file()]
    sources = {str(folder): [folder] for folder in folders if folder not in alone}
    sources |= {ALONE: alone} if alone else {}
    with ExitStack() as stack:
        tables = {name: stack.enter_context(saved_runs(*of)) for name, of in sources.items()}
        every = [run for runs in tables.values() for run in runs]
        if baseline is not None:
            held = list(dict.fromkeys(run.row for run in every))
            baseline = row_of(baseline, held)
            check_known([baseline], held, "row")
        parts = [_part(name, runs, baseline) for name, runs in tables.items()]
        made = versions_of(every)
    about = f"Finished runs: {len(every)}, tables: {len(tables)}. Made by attngraph {attngraph.__version__}."
    return rendered("page.html.jinja", about=about, parts=parts, made=made), about


def _part(title: str, runs: Sequence[Run], baseline: str | None) -> dict[str, Any]:
    """Content of the page for a table."""
    from attngraph.experiments.tables.figure import data_uri, draw_differences  # matplotlib is slow to import

    order = [*METHODS, *(run.row for run in runs)]
    runs = sorted(runs, key=lambda run: (order.index(run.row), run.seed))
    tasks = {name: task for name, task in TASKS.items() if name in {run.task for run in runs}}
    about: dict[str, Any] = {"published": ["main_blip", "gnn"]}
    if baseline is not None:
        rows = {run.row: run.method for run in runs}
        trained = [name for name, method in rows.items() if method.trains and method.group != REFERENCE]
        about |= {"baseline": baseline, "contenders": trained, "contest": "trained row"}
    said = unlike(runs)
    if said:
        about["contenders"] = []  # none is marked as the best
    table = make_table(runs, tasks, title, ABLATION.model_copy(update=about), compare=not said)
    figure = draw_differences(table.comparisons, table.headings)
    why = said or f"no other row shares a seed with {table.baseline}"
    return {
        **content_of(table),
        "differences": figure and data_uri(figure),
        "scope": f"{scope(table.comparisons)} Holm's correction is over this table."
        if table.comparisons
        else f"There are no comparisons: {why}.",
        "compared": significance(table.comparisons, table.headings),
        "details": details(runs, tasks),
    }
