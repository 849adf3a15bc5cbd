"""What stands behind a table, as frames of texts: scores by kind and seed, how methods were trained, what
adapters do, p values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from adapters.peft.learned import short_names
from experiments.tables.frame import score_frame, summarise
from experiments.tables.render import markdown_grid, scope
from experiments.tables.runs import Run, distinct
from experiments.tables.table import MISSING, Table, number
from experiments.tasks.task import Column, Task

#: Heading -> field of :class:`adapters.effects.Effect`.
EFFECTS = {
    "κ": "kappa",
    "mass moved": "moved",
    "|message|/|U|": "length",
    "cosine(message, U)": "cosine",
    "|Ū|/|U|": "whole_length",
    "cosine(Ū, U)": "whole_cosine",
}
ABOUT_EFFECTS = "what the adapters do, mean over layers and seeds ± standard deviation over seeds"
SIGNIFICANCE_HEAD = (
    "Rows", "Column", "Difference", "95 % interval", "p", "p (Holm)", "Seeds",
    "By checkpoint", "New checkpoints: 95 % interval", "p", "p (Holm)",
)  # fmt: skip


def details_markdown(runs: Sequence[Run], tasks: Mapping[str, Task], table: Table) -> str:
    """All details of a table. A run that two rows show is listed once.

    Args:
        runs: of the table.
        tasks: of the table.
        table: as :func:`experiments.tables.table.make_table` makes it of them.
    """
    runs = distinct(runs)
    grids = {f"{task.title}: scores by kind": by_kind(runs, task) for task in tasks.values()}
    grids["How the methods were trained"] = trained(runs, tasks)
    grids["Every seed"] = every_seed(runs, table.columns)
    grids |= {f"{task.title}: {ABOUT_EFFECTS}": effects(runs, task) for task in tasks.values()}
    parts = [markdown_grid(frame, title) for title, frame in grids.items() if len(frame)]
    if table.comparisons:
        parts.append(significance_markdown(table.comparisons, table.headings))
    return "\n".join(parts)


def by_kind(runs: Sequence[Run], task: Task) -> pd.DataFrame:
    """Scores by kind of example, one column for each method."""
    lines = [
        {"Kind": kind, "method": run.method.title, "score": score}
        for run in runs
        if run.task == task.name
        for kind, (score, _) in run.result["kinds"].items()
    ]
    if not lines:
        return pd.DataFrame()
    methods = list(dict.fromkeys(line["method"] for line in lines))
    frame = pd.DataFrame(lines).groupby(["Kind", "method"])["score"].agg(lambda of: number(summarise(of)))
    return frame.unstack(fill_value=MISSING)[methods].reset_index()


def trained(runs: Sequence[Run], tasks: Mapping[str, Task]) -> pd.DataFrame:
    """How methods were trained: a line for each method on each task, and another one where seeds were trained
    otherwise.
    """
    lines = []
    for run in runs:
        if (recipe := run.settings.get("recipe")) is not None:
            join, arguments = adapter_cells(run.settings.get("settings") or {})
            lines.append(
                {
                    "Method": run.method.title,
                    "Task": tasks[run.task].title,
                    "Join": join,
                    "Arguments": arguments,
                    "Rate": f"{recipe['learning_rate']:g}",
                    "Steps": f"{recipe['steps']:,}",
                    "Examples in a step": f"{recipe['batch_size']:,}",
                    "Trainable": f"{run.result['parameters']:,}",
                }
            )
    return pd.DataFrame(lines).drop_duplicates()


def adapter_cells(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Join and arguments of a graph adapter by the settings of its method; dashes where it has none."""
    arguments = settings.get("gnn_args")
    return str(settings.get("join", MISSING)), json.dumps(arguments) if arguments else MISSING


def every_seed(runs: Sequence[Run], columns: Sequence[Column]) -> pd.DataFrame:
    """Every seed's scores."""
    frame = score_frame(runs)
    shown = pd.DataFrame({"Method": frame["name"], "Seed": frame["seed"]})
    for column in (column for column in columns if column.key in frame):
        scores = frame[column.key]
        shown[column.heading] = [MISSING if np.isnan(one) else f"{100 * one:z.2f}" for one in scores]
    return shown


def effects(runs: Sequence[Run], task: Task) -> pd.DataFrame:
    """One line for each method and kind of layer: the mean over layers and seeds, with the spread over seeds.
    Without lines where no run of the task saved effects.
    """
    lines = []
    for run in (run for run in runs if run.task == task.name):
        of_run = run.result.get("effects", {})
        for name, effect in zip(short_names(list(of_run)), of_run.values(), strict=True):
            kind = re.sub(r"\d+", "*", name)  # layers whose names differ in numbers only
            lines.append({"Method": run.method.title, "Layers": kind, "seed": run.seed, **effect})
    if not lines:
        return pd.DataFrame()
    frame = pd.DataFrame(lines).reindex(columns=["Method", "Layers", "seed", *EFFECTS.values()])
    means = frame.groupby(["Method", "Layers", "seed"], sort=False).mean()
    shown = means.groupby(["Method", "Layers"], sort=False).agg(_spread)
    return shown.rename(columns={field: heading for heading, field in EFFECTS.items()}).reset_index()


def _spread(values: pd.Series) -> str:
    if values.isna().all():
        return MISSING
    mean, std, _ = summarise(values.dropna())
    return f"{mean:z.2f}" + ("" if std is None else f" ± {std:.2f}")


# ---- significance ---------------------------------------------------------------------------------------


def significance(comparisons: Sequence[Mapping[str, Any]], headings: Mapping[str, str]) -> pd.DataFrame:
    """The comparisons of a table.

    Args:
        comparisons: as :func:`experiments.tables.compare.compare_pairs` returns them.
        headings: column key -> heading.
    """
    lines = []
    for line in comparisons:
        new = [MISSING] * 4
        if line["new_p"] is not None:
            new = [
                " ".join(f"{100 * difference:+.2f}" for difference in line["by_checkpoint"]),
                _interval(line["new_low"], line["new_high"]),
                f"{line['new_p']:.4f}",
                f"{line['new_p_holm']:.3f}",
            ]
        own = [
            f"{line['row']} − {line['baseline']}",
            headings[line["column"]],
            f"{100 * line['difference']:+.2f}",
            _interval(line["low"], line["high"]),
            f"{line['p']:.4f}",
            f"{line['p_holm']:.3f}",
            str(line["seeds"]),
        ]
        lines.append([*own, *new])
    return pd.DataFrame(lines, columns=SIGNIFICANCE_HEAD)


def significance_markdown(
    comparisons: Sequence[Mapping[str, Any]], headings: Mapping[str, str], about: str = ""
) -> str:
    """:func:`significance` with what its p values speak for.

    Args:
        comparisons, headings: of :func:`significance`.
        about: a sentence on what is not compared.
    """
    said = f"{scope(comparisons)} {about}".strip()
    title = f"**Significance.** {said} Holm's correction is over this table."
    return f"{title}\n\n{markdown_grid(significance(comparisons, headings))}"


def _interval(low: float, high: float) -> str:
    return f"{100 * low:+.2f} to {100 * high:+.2f}"
