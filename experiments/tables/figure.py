"""The figure of a table's comparisons: paired differences with their intervals (a forest plot)."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attngraph.experiments.tables.table import LEVEL

FORMATS = ("png", "svg")
STYLE = {"font.family": "DejaVu Sans", "font.size": 8, "text.parse_math": False, "svg.hashsalt": "attngraph"}
_WIDTH, _MOST = 7.2, 4  # inches: width of the figure; panels in a row
_COLOUR, _GREY = "#0b5fa5", "#9a9a9a"


def draw_differences(comparisons: Sequence[Mapping[str, Any]], headings: Mapping[str, str]) -> Figure | None:
    """The difference of each pair of rows, in points, with its 95 % intervals for these checkpoints (thick)
    and for new ones (thin), one panel for each column. A filled dot is significant after Holm's correction.
    None where nothing is compared.

    Args:
        comparisons: as :func:`attngraph.experiments.tables.compare.compare_pairs` returns them.
        headings: column key -> heading, in the order of the panels.
    """
    if not comparisons:
        return None
    lines = pd.DataFrame(list(comparisons))
    lines["pair"] = lines["row"] + " − " + lines["baseline"]
    pairs = list(lines["pair"].unique())
    columns = [key for key in headings if key in set(lines["column"])]
    across = min(len(columns), _MOST)
    down = math.ceil(len(columns) / across)
    new = bool(lines["new_low"].notna().any())
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(_WIDTH, (0.7 + 0.2 * len(pairs)) * down + 0.3), dpi=200, layout="constrained"
        )
        FigureCanvasAgg(figure)
        grid = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        for axes in grid[len(columns) :]:
            axes.remove()
        for axes, key in zip(grid, columns):
            axes.axvline(0, color=_GREY, linewidth=0.8, linestyle=":")
            for line in lines[lines["column"] == key].to_dict("records"):
                place = pairs.index(line["pair"])
                low, mean, high = (100 * line[end] for end in ("low", "difference", "high"))
                if pd.notna(line["new_low"]):
                    axes.hlines(place, 100 * line["new_low"], 100 * line["new_high"], _GREY, linewidth=0.9)
                face = _COLOUR if line["p_holm"] < LEVEL else "white"
                axes.errorbar(
                    mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=_COLOUR,
                    markerfacecolor=face, markersize=4, elinewidth=2,
                )  # fmt: skip
            axes.set_title(headings[key], fontsize=8, loc="left")
            axes.set_xlabel("points", fontsize=7)
            axes.set_yticks(range(len(pairs)), pairs)
            axes.set_ylim(len(pairs) - 0.5, -0.5)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=7)
            axes.tick_params(axis="y", length=0, labelsize=8)
        figure.legend(handles=_legend(new), loc="outside lower center", ncols=4, frameon=False, fontsize=7)
    return figure


def _legend(new: bool) -> list[Line2D]:
    dot = {"color": _COLOUR, "marker": "o", "markersize": 4, "linestyle": "none"}
    these = "95 % interval" + ", these checkpoints" * new
    handles = [Line2D([], [], color=_COLOUR, linewidth=2, label=these)]
    if new:
        handles.append(Line2D([], [], color=_GREY, linewidth=0.9, label="new checkpoints"))
    handles.append(Line2D([], [], **dot, label=f"Holm-corrected p < {LEVEL}"))
    return [*handles, Line2D([], [], **dot, markerfacecolor="white", label="not significant")]


def data_uri(figure: Figure) -> str:
    """A figure as PNG, as the address of an image on a page."""
    return f"data:image/png;base64,{base64.b64encode(image(figure, 'png')).decode()}"


def image(figure: Figure, kind: str) -> bytes:
    """A figure in one of :data:`FORMATS`."""
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()
