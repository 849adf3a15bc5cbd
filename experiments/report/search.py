"""What the trials of a search say, as Markdown."""

from __future__ import annotations

import json

import pandas as pd

from adapters.joins import JOINS
from experiments.methods import METHODS, GraphAdapter
from experiments.report.markdown import kinds_markdown
from experiments.tasks import TASKS
from experiments.training.search import FROZEN, FULL, JOIN_RATES, KIND, MAJORITY, TEXT, gain


def search_report(trials: pd.DataFrame) -> str:
    """How far apart the references lie in each column and question type, and how the joins compare.

    Args:
        trials: one line per trial, as in ``trials.csv``.
    """
    references = {
        "Majority class": MAJORITY,
        "Text only": TEXT,
        "Frozen model": FROZEN,
        "Full fine-tuning": FULL,
    }
    rows = {title: trials[trials.method == name] for title, name in references.items()}
    rows["Best adapter"] = trials[trials["join"] != ""]
    best = {title: dict(lines.groupby("task").selection.max()) for title, lines in rows.items()}
    parts = [kinds_markdown(best, "Validation scores, best setting of each method", "Task")]
    for task in dict.fromkeys(trials.task):
        own = trials[trials.task == task]
        kinds = [column for column in trials if column.startswith(KIND) and own[column].notna().any()]
        if len(kinds) > 1:
            scores = {
                title: {kind.removeprefix(KIND): lines[lines.task == task][kind].max() for kind in kinds}
                for title, lines in rows.items()
            }
            title = f"{TASKS[task].title}, validation: best score per question type"
            parts.append(kinds_markdown(scores, title))
    parts.append(_joins(trials, best["Frozen model"], best["Full fine-tuning"]))
    return "\n".join(parts)


def _joins(trials: pd.DataFrame, frozen: dict[str, float], full: dict[str, float]) -> str:
    """The joins at the better of two learning rates."""
    start = {
        name: json.dumps(dict(method.start))
        for name, method in METHODS.items()
        if isinstance(method, GraphAdapter) and method.start is not None
    }
    tasks = [name for name, task in TASKS.items() if task.search.joins]
    compared = trials[
        trials.task.isin(tasks)
        & trials.rate.isin(JOIN_RATES)
        & (trials.seed == 0)
        & (trials.arguments == trials.method.map(start))
    ]
    joins: dict[str, dict[str, float]] = {}
    for join in JOINS:
        scores = compared[compared["join"] == join].groupby(["task", "method"]).selection.max()
        joins[join] = {f"{TASKS[task].title}, {gnn}": value for (task, gnn), value in scores.items()}
        gains = [gain(value, frozen[task], full[task]) for (task, _), value in scores.items()]
        joins[join]["mean gain"] = sum(gains) / max(len(gains), 1)
    return kinds_markdown(
        joins, "Joins: validation score at the better of two learning rates", "Task and GNN"
    )
