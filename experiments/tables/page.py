"""Finished runs on one page: an HTML file that needs nothing beside it.

Each folder that is named makes one table; runs that are named one by one make one together. What stands on
the page, and in which order, is in ``page.html.jinja``.
"""

from __future__ import annotations

import platform
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

import attngraph
from attngraph.errors import UserError
from experiments.base.arguments import did_you_mean
from experiments.base.progress import Progress
from experiments.methods.method import METHODS, REFERENCE
from experiments.tables import details
from experiments.tables.compare import unlike
from experiments.tables.render import COSTS, blocks_of, duration, legend, scope
from experiments.tables.runs import SCORES, Run, saved_runs, unfinished, versions_of
from experiments.tables.table import ABLATION, MISSING, make_table
from experiments.tasks import TASKS
from experiments.tasks.task import Task

ALONE = "Single runs"
SHARES = {"Of the model": "model", "Of its language side": "language_side"}


def page_of(folders: Sequence[Path], baseline: str | None = None) -> tuple[str, str]:
    """The page of finished runs, as HTML without script or network, for day and night; and what it is about,
    in a sentence. All texts are escaped.

    Args:
        folders: as :func:`experiments.tables.runs.saved_runs` takes them.
        baseline: method with which all rows that train are compared; None for the GNN ablation's, with which
            GNN adapters are.

    Raises:
        UserError: no run is of the baseline, or see :func:`~experiments.tables.runs.saved_runs`.
    """
    alone = [folder for folder in folders if (folder / SCORES).is_file()]
    sources = {str(folder): [folder] for folder in folders if folder not in alone}
    sources |= {ALONE: alone} if alone else {}
    with ExitStack() as stack:
        tables = {name: stack.enter_context(saved_runs(*dict.fromkeys(of))) for name, of in sources.items()}
        every = [run for runs in tables.values() for run in runs]
        methods = list(dict.fromkeys(run.row for run in every))
        if baseline is not None and baseline not in methods:
            near = did_you_mean(baseline, methods)
            raise UserError(f"--baseline {baseline}{near}: no run is of it; choose from {', '.join(methods)}")
        bar = Progress(list(tables.items()), desc="tables", leave=False, delay=2)
        parts = [_part(name, runs, baseline) for name, runs in bar]
    about = f"{len(every)} finished run{'s' * (len(every) > 1)}"
    about += f" in {len(tables)} table{'s' * (len(tables) > 1)}"
    about += f", {count} unfinished left out" if (count := sum(map(unfinished, folders))) else ""
    about += f". Made by attngraph {attngraph.__version__} on Python {platform.python_version()}."
    commands = [f"attngraph significance {shlex.quote(str(folder))}" for folder in dict.fromkeys(folders)]
    template = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("page.html.jinja")
    page = template.render(about=about, parts=parts, costs=COSTS, made=_made(every), commands=commands)
    return page, about


def _part(title: str, runs: Sequence[Run], baseline: str | None) -> dict[str, Any]:
    """What the page shows of a table."""
    from experiments.tables.figure import data_uri, draw_differences  # matplotlib is slow to import

    order = [*METHODS, *(run.row for run in runs)]
    runs = sorted(runs, key=lambda run: (order.index(run.row), run.seed))
    tasks = {name: task for name, task in TASKS.items() if name in {run.task for run in runs}}
    about: dict[str, Any] = {}
    if baseline is not None:
        rows = {run.row: run.method for run in runs}
        trained = [name for name, method in rows.items() if method.trains and method.group != REFERENCE]
        about = {"baseline": baseline, "contenders": trained, "contest": "of the rows that train"}
    grid = ABLATION.model_copy(update={"published": ["main_blip", "gnn"], **about})
    said = unlike(runs)
    table = make_table(runs, tasks, title, grid, compare=not said)
    compared = details.significance(table.comparisons, table.headings)
    if table.comparisons and all(line["new_p"] is None for line in table.comparisons):
        compared = compared.iloc[:, :7]  # up to the seeds
    why = said or f"no other row shares a seed with {table.baseline}"
    differences = draw_differences(table)
    effects = {f"{t.title}: {details.ABOUT_EFFECTS}": details.effects(runs, t) for t in tasks.values()}
    return {
        "title": title,
        "headings": list(table.headings.values()),
        "blocks": blocks_of(table, _html_cell),
        "legend": legend(table, "Bold"),
        "differences": differences and data_uri(differences),
        "scope": f"{scope(table.comparisons)} Holm's correction is over this table."
        if table.comparisons
        else f"Nothing is compared: {why}.",
        "compared": compared,
        "trained": details.trained(runs, tasks),
        "spent": _costs(runs, tasks),
        "effects": {title: frame for title, frame in effects.items() if len(frame)},
        "seeds": {
            "Scores of every seed": details.every_seed(runs, table.columns),
            "Every run": _places(runs, tasks),
        },
    }


def _html_cell(text: str, best: bool, differs: bool) -> Markup:
    return (Markup("<b>{}</b>").format(text) if best else escape(text)) + Markup("&thinsp;†") * differs


def _costs(runs: Sequence[Run], tasks: Mapping[str, Task]) -> pd.DataFrame:
    frame = pd.DataFrame([{"method": run.method.title, **run.result} for run in runs])
    lines = []
    for (method, task), group in frame.groupby(["method", "task"], sort=False):
        shares = [{} if pd.isna(one) else one for one in group.get("parameter_shares", [None])]
        lines.append(
            {
                "Method": method,
                "Task": tasks[task].title,
                "Seeds": len(group),
                "Trained parameters": f"{group['parameters'].max():,}",
                **{heading: _share([one.get(of) for one in shares]) for heading, of in SHARES.items()},
                "Training": duration(group["train_seconds"].mean()),
                "Scoring": duration(group["eval_seconds"].mean()),
                "Peak MB": f"{group['peak_mb'].max():,.0f}",
            }
        )
    return pd.DataFrame(lines)


def _share(shares: Sequence[float | None]) -> str:
    """The largest share of parameters that runs trained; a dash where one of them does not say."""
    return MISSING if None in shares else f"{100 * max(shares):.2f} %"


def _places(runs: Sequence[Run], tasks: Mapping[str, Task]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Method": run.method.title,
            "Task": tasks[run.task].title,
            "Seed": run.seed,
            "Last loss": MISSING if run.result["loss"] is None else f"{run.result['loss']:.3f}",
            "Folder": run.place,
        }
        for run in runs
    )


def _made(runs: Sequence[Run]) -> pd.DataFrame:
    """With what the runs were made."""
    counts = versions_of(runs)
    for what in ("device", "precision", "threads"):
        counts[what] = dict(Counter(str(run.config[what]) for run in runs if what in run.config))
    lines = [(what, value, count) for what in sorted(counts) for value, count in counts[what].items()]
    return pd.DataFrame(lines, columns=["What", "Value", "Runs"])
