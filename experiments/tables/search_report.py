"""What the trials of a search say, as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from experiments.methods import method_named
from experiments.methods.settings import SETTINGS_FILE, Settings, chosen_settings
from experiments.tables.details import adapter_cells, kinds_grid
from experiments.tables.published import MISSING
from experiments.tables.render import Grid, grid_markdown
from experiments.tables.search import FROZEN, KIND, MAJORITY, Search
from experiments.tasks import TASKS


def search_report(search: Search) -> str:
    """What was chosen and on how many trials, what twice the steps would give, how the best settings compare,
    and how far apart the references lie in each question type.

    Args:
        search: a finished one.
    """
    best = _best_runs(pd.DataFrame(list(search.lines.values())))
    names = [FROZEN, MAJORITY, *dict.fromkeys(name for name, _ in search.races)]
    table = {
        method_named(name).title: dict(best[best.method == name].set_index("task").selection)
        for name in names
    }
    parts = [
        _chosen(search),
        _doubled(search),
        grid_markdown(kinds_grid(table, "Validation scores of the best runs", "Task")),
    ]
    for task in search.tasks:
        own = best[best.task == task]
        kinds = [column for column in best if column.startswith(KIND) and own[column].notna().any()]
        if len(kinds) > 1:
            of_row = {
                method_named(line["method"]).title: {
                    kind.removeprefix(KIND): float(line[kind]) for kind in kinds if pd.notna(line[kind])
                }
                for line in own.to_dict("records")
            }
            title = f"{TASKS[task].title}, validation: those runs per question type"
            parts.append(grid_markdown(kinds_grid(of_row, title, "Question type")))
    return "\n".join([*parts, *_about_checkpoints(search)])


def _about_checkpoints(search: Search) -> list[str]:
    """A sentence where races had different checkpoints under one seed."""
    found = {(int(line["seed"]), str(line["weights"])) for line in search.lines.values()}
    several = sorted(seed for seed, count in Counter(seed for seed, _ in found).items() if count > 1)
    if not several:
        return []
    seeds = ", ".join(map(str, several))
    return [
        f"Under these seeds some races started from other checkpoints than others: {seeds} (`weights` in "
        "`trials.csv`). Their runs with such a seed do not compare methods.\n"
    ]


def _best_runs(trials: pd.DataFrame) -> pd.DataFrame:
    """The best run of each method on each task."""
    values = trials.drop(columns=["trial", "method", "task", "join", "arguments"])
    frame = trials[["method", "task"]].join(values.apply(pd.to_numeric, errors="coerce"))
    frame = frame[frame.selection.notna() & (frame["times"] == 1)]
    return frame.loc[frame.groupby(["method", "task"]).selection.idxmax()]


def _chosen(search: Search) -> str:
    """The finalists of every race, the winner first."""
    lines = []
    for (method, task), race in search.races.items():
        for place, choice in enumerate(race.best(search.scores)):
            first = [method_named(method).title, TASKS[task].title, len(race.tried)]
            made = method_named(method).settings(Settings(methods={method: {task: choice}}), task)
            edge = " (edge)" if race.beyond(choice) is not None else ""
            lines.append(
                [
                    *(first if place == 0 else [""] * len(first)),
                    *adapter_cells(made),
                    f"{choice.learning_rate:g}{edge}",
                    f"{100 * race.mean(choice, search.scores):.1f}",
                    race.seeds(choice),
                ]
            )
    head = ["Method", "Task", "Trials", "Join", "Arguments", "Rate", "Mean score", "Seeds"]
    note = (
        'Finalists of each method and task; the first is the winner. "edge": no smaller or no larger rate '
        "was tried with these settings."
    )
    return f"{grid_markdown(Grid(head, lines, 'What was chosen'))}\n{note}\n"


def _doubled(search: Search) -> str:
    """What the winners gain from twice the steps, on seeds that chose nothing, and the mean gain on each
    task.
    """
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    gains: dict[str, list[float]] = {}
    for trial in search.repeated():
        scores = search.scores[trial.key], search.scores[replace(trial, times=2).key]
        pairs.setdefault((trial.method, trial.task), []).append(scores)
    lines = []
    for (method, task), both in pairs.items():
        once, twice = (sum(scores) / len(both) for scores in zip(*both, strict=True))
        gains.setdefault(task, []).append(twice - once)
        lines.append(
            [
                method_named(method).title,
                TASKS[task].title,
                *(f"{100 * score:.1f}" for score in (once, twice)),
                f"{100 * (twice - once):+.1f}",
                len(both),
            ]
        )
    for task, of_task in gains.items():
        mean = 100 * sum(of_task) / len(of_task)
        lines.append(["Mean", TASKS[task].title, MISSING, MISSING, f"{mean:+.1f}", MISSING])
    head = ["Method", "Task", "Score", "With twice the steps", "Difference", "Seeds"]
    title = "Are the steps enough? Winners on new seeds, with once and with twice the steps"
    return grid_markdown(Grid(head, lines, title))


def how_to_use(file: Path, tasks: Sequence[str]) -> str:
    """How settings of these tasks come to be the chosen ones."""
    chosen = chosen_settings().methods.values()
    others = dict.fromkeys(task for of_task in chosen for task in of_task if task not in tasks)
    if not others:
        return f"cp {file} {SETTINGS_FILE}"
    return f"put its entries in place of those in {SETTINGS_FILE}, which has {', '.join(others)} too"
