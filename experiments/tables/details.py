"""Details of a table, as frames of texts: scores by kind and seed, training of the methods, effects of the
adapters, p-values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from attngraph.adapters.peft.effects import short_names
from attngraph.experiments.tables.compare import p_text
from attngraph.experiments.tables.frame import scores_of, summarise
from attngraph.experiments.tables.render import MISSING, markdown_grid, number, scope
from attngraph.experiments.tables.runs import Run, distinct
from attngraph.experiments.tables.table import Table
from attngraph.experiments.tasks.task import Task

#: Heading -> field of :class:`attngraph.adapters.effects.Effect`.
EFFECTS = {
    "κ": "kappa",
    "mass moved": "moved",
    "|message|/|U|": "length",
    "cosine(message, U)": "cosine",
    "|Ū|/|U|": "whole_length",
    "cosine(Ū, U)": "whole_cosine",
}
ABOUT_EFFECTS = "effects of the adapters, mean over layers and seeds ± standard deviation over seeds"
SIGNIFICANCE_HEAD = (
    "Rows", "Column", "Difference", "95 % interval", "p", "p (Holm)", "Seeds",
    "By checkpoint", "New checkpoints: 95 % interval", "p", "p (Holm)",
)  # fmt: skip


def details(runs: Sequence[Run], tasks: Mapping[str, Task]) -> dict[str, pd.DataFrame]:
    """Title -> frame, without empty frames. A run shared by two rows is listed once."""
    runs = distinct(runs)
    frames = {f"{task.title}: scores by kind": by_kind(runs, task) for task in tasks.values()}
    frames["Training of the methods"] = trained(runs, tasks)
    frames["Every seed"] = every_seed(runs, tasks)
    frames |= {f"{task.title}: {ABOUT_EFFECTS}": effects(runs, task) for task in tasks.values()}
    return {title: frame for title, frame in frames.items() if len(frame)}


def details_markdown(runs: Sequence[Run], tasks: Mapping[str, Task], table: Table) -> str:
    """The :func:`details` and the comparisons of a table."""
    parts = [markdown_grid(frame, title) for title, frame in details(runs, tasks).items()]
    if table.comparisons:
        parts.append(significance_markdown(table.comparisons, table.headings))
    return "\n".join(parts)


def by_kind(runs: Sequence[Run], task: Task) -> pd.DataFrame:
    """Scores by kind of example, one column for each method."""
    lines = [
        (kind, run.method.title, score)
        for run in runs
        if run.task == task.name
        for kind, (score, _) in run.result["kinds"].items()
    ]
    frame = pd.DataFrame(lines, columns=["Kind", "method", "score"])
    cells = frame.groupby(["Kind", "method"])["score"].agg(lambda of: number(summarise(of)))
    return cells.unstack(fill_value=MISSING)[list(frame["method"].unique())].reset_index()


def trained(runs: Sequence[Run], tasks: Mapping[str, Task]) -> pd.DataFrame:
    """Training of the methods: a line for each method on each task, and additional lines for seeds that were
    trained with other settings.
    """
    lines = []
    for run in runs:
        if (recipe := run.settings.get("recipe")) is not None:
            own = run.settings.get("settings") or {}
            lines.append(
                {
                    "Method": run.method.title,
                    "Task": tasks[run.task].title,
                    "Join": own.get("join", MISSING),
                    "Arguments": json.dumps(own["gnn_args"]) if own.get("gnn_args") else MISSING,
                    "Rate": f"{recipe['learning_rate']:g}",
                    "Steps": f"{recipe['steps']:,}",
                    "Examples in a step": f"{recipe['batch_size']:,}",
                    "Trainable": f"{run.result['parameters']:,}",
                }
            )
    return pd.DataFrame(lines).drop_duplicates()


def every_seed(runs: Sequence[Run], tasks: Mapping[str, Task]) -> pd.DataFrame:
    """Every seed's scores."""
    scores = scores_of(runs, tasks)
    shown = scores.frame[["name", "seed"]].rename(columns={"name": "Method", "seed": "Seed"})
    for column in scores.columns:
        values = scores.frame.reindex(columns=[column.key])[column.key]
        shown[column.heading] = [MISSING if pd.isna(one) else f"{100 * one:z.2f}" for one in values]
    return shown


def effects(runs: Sequence[Run], task: Task) -> pd.DataFrame:
    """One line for each method and kind of layer: the mean over layers and seeds, with the spread over seeds.
    Empty if no run of the task saved effects.
    """
    lines = []
    for run in (run for run in runs if run.task == task.name):
        of_run = run.result.get("effects", {})
        for name, effect in zip(short_names(list(of_run)), of_run.values(), strict=True):
            kind = re.sub(r"\d+", "*", name)  # layers whose names differ in numbers only
            lines.append({"Method": run.method.title, "Layers": kind, "seed": run.seed, **effect})
    frame = pd.DataFrame(lines, columns=["Method", "Layers", "seed", *EFFECTS.values()])
    means = frame.groupby(["Method", "Layers", "seed"], sort=False).mean()
    shown = means.groupby(["Method", "Layers"], sort=False).agg(_spread)
    return shown.rename(columns={field: heading for heading, field in EFFECTS.items()}).reset_index()


def _spread(values: pd.Series) -> str:
    if values.isna().all():
        return MISSING
    mean, std, _ = summarise(values.dropna())
    return f"{mean:z.2f}" + ("" if std is None else f" ± {std:.2f}")


def significance(comparisons: Sequence[Mapping[str, Any]], headings: Mapping[str, str]) -> pd.DataFrame:
    """The comparisons of a table.

    Args:
        comparisons: results of :func:`attngraph.experiments.tables.compare.compare_pairs`.
        headings: column key -> heading.
    """
    lines = []
    margin = comparisons[0].get("margin") if comparisons else None
    for line in comparisons:
        new = [MISSING] * 4
        if line["new_p"] is not None:
            by_checkpoint = " ".join(f"{100 * difference:+.2f}" for difference in line["by_checkpoint"])
            new = [by_checkpoint, *_interval_and_p(line, "new_")]
        difference = f"{100 * line['difference']:+.2f}"
        names = [f"{line['row']} − {line['baseline']}", headings[line["column"]]]
        lines.append([*names, difference, *_interval_and_p(line, ""), str(line["seeds"]), *new])
        if margin is not None:
            lines[-1] += [*_p_values(line, "equivalent_p"), *_p_values(line, "new_equivalent_p")]
    if margin is None:
        return pd.DataFrame(lines, columns=SIGNIFICANCE_HEAD)
    within = f"within ± {100 * margin:g}: p"
    more = (f"Equivalent {within}", "p (Holm)", f"New checkpoints: equivalent {within}", "p (Holm)")
    return pd.DataFrame(lines, columns=[*SIGNIFICANCE_HEAD, *more])


def _interval_and_p(line: Mapping[str, Any], new: str) -> list[str]:
    interval = f"{100 * line[f'{new}low']:+.2f} to {100 * line[f'{new}high']:+.2f}"
    return [interval, *_p_values(line, f"{new}p")]


def _p_values(line: Mapping[str, Any], name: str) -> list[str]:
    """The p-value before and after correction."""
    if line[name] is None:
        return [MISSING] * 2
    return [p_text(line[name]), p_text(line[f"{name}_holm"], 3)]


def significance_markdown(comparisons: Sequence[Mapping[str, Any]], headings: Mapping[str, str]) -> str:
    """:func:`significance` with the population of its p-values."""
    title = f"**Significance.** {scope(comparisons)} Holm's correction is over this table."
    return f"{title}\n\n{markdown_grid(significance(comparisons, headings))}"
