"""What stands behind a table, as grids of texts: scores by kind and seed, how methods were trained, what
adapters do, what they learned alike in all seeds, p values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from adapters.peft.learned import short_names
from experiments.tables.frame import Summary, score_frame, summarise
from experiments.tables.published import MISSING, number
from experiments.tables.render import Grid, grid_markdown, scope
from experiments.tables.runs import Run, distinct
from experiments.tables.table import Table
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
TRAINING_HEAD = ("Method", "Task", "Join", "Arguments", "Rate", "Steps", "Examples in a step", "Trainable")
SIGNIFICANCE_HEAD = (
    "Rows", "Column", "Difference", "95 % interval", "p", "p (Holm)", "Seeds",
    "By checkpoint", "New checkpoints: 95 % interval", "p", "p (Holm)",
)  # fmt: skip
LEAST_SEEDS = 3  # to speak of agreement
AGREE = 2.0  # standard deviations over seeds that the mean lies from the start at least


def details_markdown(runs: Sequence[Run], tasks: Mapping[str, Task], table: Table) -> str:
    """All details of a table. A run that two rows show is listed once.

    Args:
        runs: of the table.
        tasks: of the table.
        table: as :func:`experiments.tables.table.make_table` makes it of them.
    """
    runs = distinct(runs)
    grids = [*(by_kind(runs, task) for task in tasks.values()), trained(runs, tasks)]
    grids += [every_seed(runs, tasks, table.columns), *(effects(runs, task) for task in tasks.values())]
    parts = [grid_markdown(grid) for grid in grids if grid.lines]
    about, grid = learned(runs, tasks)
    if about:
        parts.append(f"**Learned numbers on which seeds agree**: {about}\n")
        parts[-1] += f"\n{grid_markdown(grid)}" if grid.lines else ""
    if table.comparisons:
        headings = {column.key: column.heading for column in table.columns}
        parts.append(significance_markdown(table.comparisons, headings))
    return "\n".join(parts)


def by_kind(runs: Sequence[Run], task: Task) -> Grid:
    """Scores by kind of example, one column for each method."""
    values: dict[str, dict[str, list[float]]] = {}
    for run in (run for run in runs if run.task == task.name):
        of_row = values.setdefault(run.method.title, {})
        for kind, (score, _) in run.result["kinds"].items():
            of_row.setdefault(kind, []).append(score)
    scores = {row: {kind: summarise(of) for kind, of in kinds.items()} for row, kinds in values.items()}
    return kinds_grid(scores, f"{task.title}: scores by kind", "Kind")


def kinds_grid(scores: Mapping[str, Mapping[str, float | Summary]], title: str, corner: str) -> Grid:
    """Scores per kind: one line per kind, one column per method.

    Args:
        scores: method -> kind -> fraction, or mean and spread over seeds.
        title: of the grid.
        corner: heads the first column.
    """

    def cell(score: float | Summary | None) -> str:
        return number(Summary(score, None, 1) if isinstance(score, float) else score)

    kinds = sorted({kind for of_kind in scores.values() for kind in of_kind})
    lines = [[kind, *(cell(of_kind.get(kind)) for of_kind in scores.values())] for kind in kinds]
    return Grid([corner, *scores], lines, title)


def trained(runs: Sequence[Run], tasks: Mapping[str, Task]) -> Grid:
    """How methods were trained: a line for each method on each task, and another one where seeds were trained
    otherwise. The last column is the number of parameters.
    """
    lines = []
    for run in runs:
        recipe = run.settings.get("recipe")
        if recipe is not None:
            lines.append(
                (
                    run.method.title,
                    tasks[run.task].title,
                    *adapter_cells(run.settings.get("settings") or {}),
                    f"{recipe['learning_rate']:g}",
                    *(f"{recipe[name]:,}" for name in ("steps", "batch_size")),
                    f"{run.result['parameters']:,}",
                )
            )
    return Grid(TRAINING_HEAD, list(dict.fromkeys(lines)), "How the methods were trained", names=2)


def adapter_cells(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Join and arguments of a graph adapter by the settings of its method; dashes where it has none."""
    arguments = settings.get("gnn_args")
    return str(settings.get("join", MISSING)), json.dumps(arguments) if arguments else MISSING


def every_seed(runs: Sequence[Run], tasks: Mapping[str, Task], columns: Sequence[Column]) -> Grid:
    """Every seed's scores."""
    frame = score_frame(runs, tasks)
    shown = [column for column in columns if column.key in frame]
    lines = []
    for line in frame.to_dict("records"):
        scores = [line[column.key] for column in shown]
        cells = [MISSING if np.isnan(score) else f"{100 * score:z.2f}" for score in scores]
        lines.append([line["name"], str(line["seed"]), *cells])
    head = ["Method", "Seed", *(column.heading for column in shown)]
    return Grid(head, lines, "Every seed", folded=True)


# ---- what adapters do -----------------------------------------------------------------------------------


def effects(runs: Sequence[Run], task: Task) -> Grid:
    """One line for each method and kind of layer: the mean over layers and seeds, with the spread over seeds.
    Without lines where no run of the task saved effects.
    """
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for run in runs:
        of_run = run.result.get("effects", {}) if run.task == task.name else {}
        for kind, layers in _by_layer(of_run).items():
            line = values.setdefault((run.method.title, kind), {})
            for field in EFFECTS.values():
                known = [layer[field] for layer in layers if field in layer]
                if known:
                    line.setdefault(field, []).append(float(np.mean(known)))
    lines = [
        [*key, *(_spread(line.get(field)) for field in EFFECTS.values())] for key, line in values.items()
    ]
    return Grid(("Method", "Layers", *EFFECTS), lines, f"{task.title}: {ABOUT_EFFECTS}", names=2)


def learned(runs: Sequence[Run], tasks: Mapping[str, Task]) -> tuple[str, Grid]:
    """How many learned numbers seeds agree on, and which; an empty text where nothing was learned.

    Seeds agree if there are at least :data:`LEAST_SEEDS` of them and the mean lies :data:`AGREE` standard
    deviations over seeds from where training started.
    """
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}  # starts and ends
    for run in runs:
        started = run.result.get("started", {})
        for name, value in run.result["learned"].items():
            place = (tasks[run.task].title, run.method.title, name)
            found.setdefault(place, []).append((started.get(name, float("nan")), value))
    lines = []
    for place, pairs in found.items():
        starts, ends = zip(*pairs)
        if agree(starts, ends):
            lines.append([*place, f"{np.mean(starts):.3f}", _spread(ends, digits=3)])
    about = (
        f"{len(lines)} of {len(found)}. The others are not "
        f"listed: there are fewer than {LEAST_SEEDS} seeds, or the mean lies within {AGREE:g} standard "
        "deviations over seeds of where training started."
    )
    grid = Grid(("Task", "Method", "Number", "Start", "Learned"), lines, names=3, folded=True)
    return about if found else "", grid


def agree(starts: Sequence[float], ends: Sequence[float]) -> bool:
    """Whether seeds moved a number alike, from one start each to one end each (NaN: unknown)."""
    if len(ends) < LEAST_SEEDS or not np.isfinite([*starts, *ends]).all():
        return False
    return bool(abs(np.mean(ends) - np.mean(starts)) > AGREE * np.std(ends, ddof=1))


def _by_layer(of_run: Mapping[str, Mapping[str, float]]) -> dict[str, list[Mapping[str, float]]]:
    """Layers whose names differ in numbers only, under the part of the name that tells the kinds apart."""
    kinds: dict[str, list[Mapping[str, float]]] = {}
    for name, effect in zip(short_names(list(of_run)), of_run.values(), strict=True):
        kinds.setdefault(re.sub(r"\d+", "*", name), []).append(effect)
    return kinds


def _spread(values: Iterable[float] | None, digits: int = 2) -> str:
    if values is None:
        return MISSING
    mean, std, _ = summarise(list(values))
    return f"{mean:z.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


# ---- significance ---------------------------------------------------------------------------------------


def significance(comparisons: Sequence[Mapping[str, Any]], headings: Mapping[str, str]) -> Grid:
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
    return Grid(SIGNIFICANCE_HEAD, lines, names=2)


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
    return f"{title}\n\n{grid_markdown(significance(comparisons, headings))}"


def _interval(low: float, high: float) -> str:
    return f"{100 * low:+.2f} to {100 * high:+.2f}"
