"""What the adapters of a table do to attention, and what they learned alike in all seeds, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from adapters.peft.learned import short_names
from experiments.methods.graph_adapter import method_named
from experiments.report.markdown import markdown_table
from experiments.report.rows import summarise
from experiments.report.runs import Run
from experiments.report.table import Summary
from experiments.report.wording import MISSING
from experiments.tasks.task import Task

#: Heading -> field of :class:`adapters.effects.Effect`.
EFFECTS = {
    "κ": "kappa",
    "mass moved": "moved",
    "|message|/|U|": "length",
    "cosine(message, U)": "cosine",
    "|Ū|/|U|": "whole_length",
    "cosine(Ū, U)": "whole_cosine",
}
EFFECTS_HEAD = ("Method", "Layers", *EFFECTS)
ABOUT_EFFECTS = "what the adapters do, mean over layers and seeds ± standard deviation over seeds"
LEARNED_HEAD = ("Task", "Method", "Number", "Start", "Learned")
LEAST_SEEDS = 3  # to speak of agreement
AGREE = 2.0  # standard deviations over seeds that the mean lies from the start at least


def effects_markdown(runs: Sequence[Run], task: Task) -> str:
    """:func:`effects_lines` as a table; empty where there are none."""
    lines = effects_lines(runs, task)
    title = f"{task.title}: {ABOUT_EFFECTS}"
    return markdown_table(EFFECTS_HEAD, lines, title) if lines else ""


def effects_lines(runs: Sequence[Run], task: Task) -> list[list[str]]:
    """What stands under :data:`EFFECTS_HEAD`, one line for each method and kind of layer: the mean over
    layers and seeds, with the spread over seeds.

    Empty where no run of the task saved effects.
    """
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for run in runs:
        of_run = run.result.get("effects", {}) if run.task == task.name else {}
        for kind, layers in _by_kind(of_run).items():
            line = values.setdefault((method_named(run.row).title, kind), {})
            for field in EFFECTS.values():
                known = [layer[field] for layer in layers if field in layer]
                if known:
                    line.setdefault(field, []).append(float(np.mean(known)))
    return [
        [*place, *(_number(line.get(field)) for field in EFFECTS.values())] for place, line in values.items()
    ]


def learned_markdown(runs: Sequence[Run], tasks: Mapping[str, Task]) -> str:
    """:func:`learned_lines` as a text and a table; empty where nothing was learned."""
    text, lines = learned_lines(runs, tasks)
    text = text and f"**Learned numbers on which seeds agree**: {text}\n"
    return f"{text}\n{markdown_table(LEARNED_HEAD, lines)}" if lines else text


def learned_lines(runs: Sequence[Run], tasks: Mapping[str, Task]) -> tuple[str, list[list[str]]]:
    """The learned numbers on which seeds agree, and how many they are; nothing where nothing was learned.

    Seeds agree if there are at least :data:`LEAST_SEEDS` of them and the mean lies :data:`AGREE` standard
    deviations over seeds from where training started.
    """
    learned: dict[tuple[str, str, str], list[tuple[float, float]]] = {}  # starts and ends
    for run in runs:
        started = run.result.get("started", {})
        for name, value in run.result["learned"].items():
            place = (tasks[run.task].title, method_named(run.row).title, name)
            learned.setdefault(place, []).append((started.get(name, float("nan")), value))
    if not learned:
        return "", []
    lines = []
    for place, pairs in learned.items():
        starts, ends = zip(*pairs)
        if agree(starts, ends):
            lines.append([*place, f"{np.mean(starts):.3f}", _number(ends, digits=3)])
    return (
        f"{len(lines)} of {len(learned)}. The others are not "
        f"listed: there are fewer than {LEAST_SEEDS} seeds, or the mean lies within {AGREE:g} standard "
        "deviations over seeds of where training started."
    ), lines


def agree(starts: Sequence[float], ends: Sequence[float]) -> bool:
    """Whether seeds moved a number alike, from one start each to one end each (NaN: unknown)."""
    if len(ends) < LEAST_SEEDS or not np.isfinite([*starts, *ends]).all():
        return False
    return bool(abs(np.mean(ends) - np.mean(starts)) > AGREE * np.std(ends, ddof=1))


def _by_kind(effects: Mapping[str, Mapping[str, float]]) -> dict[str, list[Mapping[str, float]]]:
    """Layers whose names differ in numbers only, under the part of the name that tells the kinds apart."""
    kinds: dict[str, list[Mapping[str, float]]] = {}
    for name, effect in zip(short_names(list(effects)), effects.values(), strict=True):
        kinds.setdefault(re.sub(r"\d+", "*", name), []).append(effect)
    return kinds


def _number(values: Iterable[float] | None, digits: int = 2) -> str:
    if values is None:
        return MISSING
    score: Summary = summarise(list(values))
    spread = "" if score.std is None else f" ± {score.std:.{digits}f}"
    return f"{score.mean:z.{digits}f}{spread}"
