"""What the trials of a search say, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pandas as pd

from experiments.methods import method_named
from experiments.report.markdown import escape, kinds_markdown, markdown_table
from experiments.tasks import TASKS
from experiments.training.search import FROZEN, KIND, MAJORITY, Race


def search_report(
    trials: pd.DataFrame, races: Mapping[tuple[str, str], Race], scores: Mapping[tuple[str, str, int], float]
) -> str:
    """What was chosen and on how many trials, how the best settings compare, and how far apart the references
    lie in each question type.

    Args:
        trials: one line per trial, as in ``trials.csv``.
        races: (method, task) -> finished race.
        scores: of all trials.
    """
    best = _best_runs(trials)
    names = [FROZEN, MAJORITY, *dict.fromkeys(name for name, _ in races)]
    table = {
        method_named(name).title: dict(best[best.method == name].set_index("task").selection)
        for name in names
    }
    parts = [_chosen(races, scores), kinds_markdown(table, "Validation scores of the best runs", "Task")]
    for task in TASKS:
        own = best[best.task == task]
        kinds = [column for column in best if column.startswith(KIND) and own[column].notna().any()]
        if len(kinds) > 1:
            of_row = {
                method_named(line["method"]).title: {
                    kind.removeprefix(KIND): float(line[kind]) for kind in kinds if pd.notna(line[kind])
                }
                for line in own.to_dict("records")
            }
            parts.append(
                kinds_markdown(of_row, f"{TASKS[task].title}, validation: those runs per question type")
            )
    return "\n".join(parts)


def _best_runs(trials: pd.DataFrame) -> pd.DataFrame:
    """The best run of each method on each task."""
    values = trials.drop(columns=["trial", "method", "task", "join", "arguments"])
    frame = trials[["method", "task"]].join(values.apply(pd.to_numeric, errors="coerce"))
    frame = frame[frame.selection.notna()]
    return frame.loc[frame.groupby(["method", "task"]).selection.idxmax()]


def _chosen(races: Mapping[tuple[str, str], Race], scores: Mapping[tuple[str, str, int], float]) -> str:
    """The finalists of every race, the winner first."""
    lines = []
    for (method, task), race in races.items():
        for place, choice in enumerate(race.best(scores)):
            first = (
                [method_named(method).title, TASKS[task].title, len(race.tried)]
                if place == 0
                else ["", "", ""]
            )
            edge = " (edge)" if race.beyond(choice) is not None else ""
            lines.append(
                [
                    *first,
                    choice.join,
                    escape(json.dumps(choice.arguments)),
                    f"{choice.learning_rate:g}{edge}",
                    f"{100 * race.mean(choice, scores):.1f}",
                    race.seeds(choice),
                ]
            )
    head = ["Method", "Task", "Trials", "Join", "Arguments", "Rate", "Mean score", "Seeds"]
    note = (
        'Finalists of each method and task; the first is the winner. "edge": no smaller or no larger rate '
        "was tried with these settings."
    )
    return f"**What was chosen**\n\n{markdown_table(head, lines)}\n{note}\n"
