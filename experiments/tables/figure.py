"""The figure of a table: differences from a baseline with their intervals."""

from __future__ import annotations

import base64
import io
import math

import matplotlib
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.tables.table import LEVEL, Table

STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False}
_PANEL, _MOST = 2.4, 4  # inches: width of a panel; panels beside each other
_COLOUR = "#0b5fa5"


def draw_differences(table: Table) -> Figure | None:
    """Each compared row's difference from the baseline with its 95 % interval, one panel for each column; a
    filled dot differs after Holm's correction. None where nothing is compared.
    """
    if not table.comparisons:
        return None
    lines = pd.DataFrame(list(table.comparisons))
    names = list(lines["row"].unique())
    columns = [key for key in table.headings if key in set(lines["column"])]
    across = min(len(columns), _MOST)
    down = math.ceil(len(columns) / across)
    size = (1.6 + _PANEL * across, (0.9 + 0.28 * len(names)) * down)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        for axes in grid[len(columns) :]:
            axes.remove()
        for axes, key in zip(grid, columns):
            for line in lines[lines["column"] == key].to_dict("records"):
                low, mean, high = (100 * line[end] for end in ("low", "difference", "high"))
                face = _COLOUR if line["p_holm"] < LEVEL else "white"
                axes.errorbar(
                    mean, names.index(line["row"]), xerr=[[mean - low], [high - mean]], fmt="o",
                    color=_COLOUR, markerfacecolor=face, markersize=5, capsize=2.5, elinewidth=1.3,
                )  # fmt: skip
            axes.axvline(0, color="#888888", linewidth=0.9, linestyle=":")
            axes.set_title(table.headings[key], fontsize=9.5, loc="left")
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_xlabel(f"points above {table.baseline} (95 % interval)", fontsize=8)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
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
