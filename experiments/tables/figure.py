"""Figures: differences from a baseline with their intervals, and curves of training."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from attngraph.errors import UserError
from experiments.base.errors import first_line
from experiments.tables.runs import Run
from experiments.tables.table import LEVEL, Table
from experiments.tasks.task import Task

STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False}
METRICS, VALIDATION = "metrics.csv", "validation.csv"  # of a run
POINTS = 100  # of a curve
_PANEL, _MOST = 2.4, 4  # inches: width of a panel; panels beside each other


def draw_differences(table: Table) -> Figure | None:
    """Each compared row's difference from the baseline with its 95 % interval, one panel for each column; a
    filled dot differs after Holm's correction. None where nothing is compared.
    """
    if not table.comparisons:
        return None
    lines = pd.DataFrame(list(table.comparisons))
    names = list(dict.fromkeys(lines["row"]))
    columns = [key for key in table.headings if key in set(lines["column"])]
    height = 0.9 + 0.28 * len(names)
    with matplotlib.rc_context(STYLE):
        figure, grid = _panels(len(columns), height)
        for axes, key in zip(grid, columns):
            for line in lines[lines["column"] == key].to_dict("records"):
                low, mean, high = (100 * line[end] for end in ("low", "difference", "high"))
                face = "#0b5fa5" if line["p_holm"] < LEVEL else "white"
                axes.errorbar(
                    mean, names.index(line["row"]), xerr=[[mean - low], [high - mean]], fmt="o",
                    color="#0b5fa5", markerfacecolor=face, markersize=5, capsize=2.5, elinewidth=1.3,
                )  # fmt: skip
            axes.axvline(0, color="#888888", linewidth=0.9, linestyle=":")
            axes.set_title(table.headings[key], fontsize=9.5, loc="left")
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_xlabel(f"points above {table.baseline}", fontsize=8)
    return figure


def _panels(count: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    """Panels in lines of at most :data:`_MOST`; those of a line share the names at the left."""
    across = min(count, _MOST)
    down = math.ceil(count / across)
    figure = Figure(figsize=(1.6 + _PANEL * across, height * down), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[:count]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, grid[:count]


# ---- curves ---------------------------------------------------------------------------------------------


def read_steps(file: Path) -> pd.DataFrame:
    """A CSV file of numbers by its column ``step``; empty without a file.

    Raises:
        UserError: the file is damaged.
    """
    if not file.is_file():
        return pd.DataFrame()
    try:
        frame = pd.read_csv(file, dtype=float, index_col=False)
        if frame.empty or "step" not in frame or frame["step"].isna().any():
            raise ValueError("no lines with a step")
        return frame.set_index("step")
    except ValueError as error:
        raise UserError(f"{file} is damaged ({first_line(error)}): delete it, or run again") from None


def thinned(frame: pd.DataFrame, points: int = POINTS) -> pd.DataFrame:
    """At most so many lines: means over stretches of steps of one length, the last one perhaps shorter."""
    length = math.ceil(len(frame) / points)
    if length <= 1:
        return frame
    frame = frame.reset_index().groupby(np.arange(len(frame)) // length).mean()
    return frame.set_index("step")


def curves_of(runs: Sequence[Run], task: Task) -> dict[str, pd.DataFrame]:
    """Loss, learning rate and validation scores: panel's title -> means over seeds, by step, a column for
    each row.

    Args:
        runs: some are on the task.
        task: which.

    Raises:
        UserError: a file is damaged.
    """
    asked = [(METRICS, "loss", "training loss", 1.0), (METRICS, "learning_rate", "learning rate", 1.0)]
    asked += [(VALIDATION, c.key, f"{c.heading}, validation (× 100)", 100.0) for c in task.columns]
    held = [run for run in runs if run.task == task.name]
    frames = {
        name: [(run.method.title, thinned(read_steps(run.folder / name))) for run in held]
        for name in (METRICS, VALIDATION)
    }
    panels = {}
    for file, column, panel, scale in asked:
        series = [scale * frame[column].rename(title) for title, frame in frames[file] if column in frame]
        if series:
            by_row = pd.concat(series, axis=1).T.groupby(level=0).mean().T
            panels[panel] = by_row.reindex(columns=list(dict.fromkeys(run.method.title for run in held)))
    return panels


def draw_curves(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """One panel beside the other; a line is the mean over seeds."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.3 * len(panels), 2.8), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (title, curves) in zip(np.ravel(figure.subplots(1, len(panels))), panels.items()):
            curves.interpolate().plot(ax=axes, title=title, legend=False, linewidth=1.3)
            axes.grid(color="#dddddd", linewidth=0.6)
        figure.legend(axes.get_lines(), curves.columns, loc="outside lower center", ncols=6, frameon=False)
    return figure


def data_uri(figure: Figure) -> str:
    """A figure as PNG, as the address of an image on a page."""
    return f"data:image/png;base64,{base64.b64encode(png(figure)).decode()}"


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="png")
    return file.getvalue()
