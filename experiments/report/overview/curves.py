"""How runs trained: loss, learning rate and validation scores over steps, from ``metrics.csv`` and
``validation.csv``.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attngraph.errors import UserError
from experiments.report.overview.found import Found
from experiments.report.overview.grouped import Series
from experiments.tasks.task import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS, VALIDATION = "metrics.csv", "validation.csv"
POINTS = 100  # of a line
PANEL = 3.3  # inches that one takes at the side of the next


@dataclass(frozen=True)
class Curve:
    """A row's numbers over steps.

    Args:
        steps: ``(n,)``.
        values: ``(S, n)``, one line for each seed.
    """

    steps: np.ndarray
    values: np.ndarray


def read_columns(file: Path) -> dict[str, np.ndarray]:
    """The columns of a CSV file of numbers; empty without a file. An empty cell is NaN.

    Raises:
        UserError: the file is damaged.
    """
    if not file.is_file():
        return {}
    try:
        head, *lines = list(csv.reader(file.read_text(encoding="utf-8").splitlines(), strict=True))
        if not lines or "step" not in head or any(len(line) != len(head) for line in lines):
            raise ValueError("no lines of one length with a step")
        numbers = np.array([[float(cell) if cell else math.nan for cell in line] for line in lines])
        return dict(zip(head, numbers.T, strict=True))
    except (ValueError, csv.Error) as error:
        reason = str(error).replace("\n", " ")
        raise UserError(f"{file} is damaged ({reason}): delete it, or run again") from None


def thinned(steps: np.ndarray, values: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points: means over stretches of steps of one length, the last one perhaps shorter."""
    length = math.ceil(len(steps) / points)
    if length <= 1:
        return steps, values
    starts = np.arange(0, len(steps), length)
    sizes = np.diff([*starts, len(steps)])
    return np.add.reduceat(steps, starts) / sizes, np.add.reduceat(values, starts) / sizes


def curve_of(runs: Sequence[Found], file: str, column: str) -> Curve | None:
    """A column over the seeds of one row and task; None where no run has it. Seeds that stopped earlier end
    the curve where the shortest ends.

    Raises:
        UserError: a file is damaged.
    """
    lines = []
    for run in runs:
        columns = read_columns(run.folder / file)
        if column in columns:
            lines.append(
                thinned(columns["step"], columns[column])
                if file == METRICS
                else (columns["step"], columns[column])
            )
    if not lines:
        return None
    shortest = min((steps for steps, _ in lines), key=len)
    return Curve(shortest, np.stack([values[: len(shortest)] for _, values in lines]))


@dataclass(frozen=True)
class Panels:
    """The curves of a task.

    Args:
        titles: of the panels, which stand side by side.
        curves: for each panel row title -> curve.
    """

    titles: Sequence[str]
    curves: Sequence[dict[str, Curve]]


def panels_of(rows: Sequence[Series], task: Task) -> Panels | None:
    """The curves of all rows on a task; None where no run has any.

    Raises:
        UserError: a file is damaged.
    """
    columns = {column.key: column.heading for column in task.columns}
    asked = [(METRICS, "loss", "training loss", 1.0), (METRICS, "learning_rate", "learning rate", 1.0)]
    asked += [(VALIDATION, key, f"{heading}, validation (× 100)", 100.0) for key, heading in columns.items()]
    titles, panels = [], []
    for file, column, title, scale in asked:
        held = {}
        for row in rows:
            own = [run for (name, _), run in sorted(row.runs.items()) if name == task.name]
            if (curve := curve_of(own, file, column)) is not None:
                held[row.title] = Curve(curve.steps, scale * curve.values)
        if held:
            titles.append(title)
            panels.append(held)
    return Panels(titles, panels) if panels else None


def draw(panels: Panels) -> Figure:
    """One panel beside the other; a line is the mean over seeds, its shade reaches from the lowest to the
    highest seed.
    """
    import matplotlib
    from matplotlib.lines import Line2D

    from experiments.report.overview.drawing import COLOURS, STYLE, STYLES, TEXT, figure_of

    names = list(dict.fromkeys(name for curves in panels.curves for name in curves))
    place = {name: number for number, name in enumerate(names)}
    width = PANEL * len(panels.titles)
    per_line = max(1, int(width / (0.7 + 0.075 * max(map(len, names)))))
    legend = 0.19 * math.ceil(len(names) / per_line) + 0.1
    height = 2.35 + legend
    with matplotlib.rc_context(STYLE):
        figure = figure_of(width, height)
        for number, (title, curves) in enumerate(zip(panels.titles, panels.curves, strict=True)):
            left, bottom = (number * PANEL + 0.55) / width, (legend + 0.5) / height
            axes = figure.add_axes((left, bottom, (PANEL - 0.75) / width, 1.5 / height))
            for name, curve in curves.items():
                style = STYLES[place[name] // len(COLOURS) % len(STYLES)]
                _line(axes, curve, COLOURS[place[name] % len(COLOURS)], style)
            _frame(axes, title)
            _show_the_end(axes, list(curves.values()))
        handles = [
            Line2D([], [], color=COLOURS[k % len(COLOURS)], linestyle=STYLES[k // len(COLOURS) % len(STYLES)])
            for k in range(len(names))
        ]
        figure.legend(
            handles, names, loc="lower center", ncols=min(per_line, len(names)), frameon=False, fontsize=8.5,
            labelcolor=TEXT, borderaxespad=0.2,
        )  # fmt: skip
    return figure


def _line(axes: Axes, curve: Curve, colour: str, style: str) -> None:
    known = np.isfinite(curve.values).all(axis=0)
    steps, values = curve.steps[known], curve.values[:, known]
    dots = {"marker": "o", "markersize": 3} if len(steps) < 12 else {}
    axes.plot(steps, values.mean(axis=0), style, color=colour, linewidth=1.3, **dots)
    if len(values) > 1:
        axes.fill_between(
            steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.14, linewidth=0
        )


def _show_the_end(axes: Axes, curves: Sequence[Curve]) -> None:
    """Leave out of the axis how high curves begin, which would flatten all that follows."""
    later = [curve.values[:, len(curve.steps) // 20 :] for curve in curves if len(curve.steps) >= 20]
    if len(later) == len(curves):
        ends = [values[np.isfinite(values)] for values in later]
        low = min((of.min() for of in ends if of.size), default=0.0)
        high = max((of.max() for of in ends if of.size), default=1.0)
        margin = 0.05 * (high - low) or 0.05
        axes.set_ylim(low - margin, high + margin)


def _frame(axes: Axes, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    from experiments.report.overview.drawing import LINE, PALE, TEXT

    axes.set_title(title, fontsize=9.5, color=TEXT, loc="left")
    axes.set_xlabel("step", color=PALE, fontsize=8.5)
    axes.grid(color=LINE, linewidth=0.6)
    axes.tick_params(colors=PALE, labelsize=8, length=2.5)
    axes.ticklabel_format(axis="y", scilimits=(-3, 4), useOffset=False)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.get_offset_text().set(color=PALE, fontsize=8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(LINE)
