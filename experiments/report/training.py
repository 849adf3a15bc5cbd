"""How the runs of a table were trained, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.methods.graph_adapter import method_named
from experiments.report.markdown import markdown_table
from experiments.report.runs import Run
from experiments.report.wording import MISSING
from experiments.tasks.task import Task

TRAINING_HEAD = ("Method", "Task", "Join", "Arguments", "Rate", "Steps", "Examples in a step", "Trainable")


def adapter_cells(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Join and arguments of a graph adapter by the settings of its method; dashes where it has none."""
    arguments = settings.get("gnn_args")
    return str(settings.get("join", MISSING)), json.dumps(arguments) if arguments else MISSING


def training_markdown(runs: Sequence[Run], tasks: Mapping[str, Task]) -> str:
    """:func:`training_lines` as a table; empty where nothing was trained."""
    lines = training_lines(runs, tasks)
    return markdown_table(TRAINING_HEAD, lines, "How the methods were trained") if lines else ""


def training_lines(runs: Sequence[Run], tasks: Mapping[str, Task]) -> list[list[str]]:
    """What stands under :data:`TRAINING_HEAD`: a line for each method on each task, and another one where
    seeds were trained otherwise. The last column is the number of parameters.
    """
    lines = []
    for run in runs:
        recipe, made = run.settings.get("recipe"), run.settings.get("settings") or {}
        if recipe is None:
            continue
        lines.append(
            (
                method_named(run.row).title,
                tasks[run.task].title,
                *adapter_cells(made),
                f"{recipe['learning_rate']:g}",
                *(f"{recipe[name]:,}" for name in ("steps", "batch_size")),
                f"{run.result['parameters']:,}",
            )
        )
    return [list(line) for line in dict.fromkeys(lines)]
