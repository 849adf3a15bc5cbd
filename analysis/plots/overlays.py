"""Maps drawn over pictures, and the mass of maps inside a region."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from PIL import Image

from attngraph.extras import pandas as pd

_HEAT = LinearSegmentedColormap.from_list("heat", [(1, 0.75, 0, 0), (1, 0.5, 0, 0.6), (0.8, 0, 0, 0.92)])
_STYLE: Any = {"font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False}
_CELL, _TEXT = 1.55, 1.9  # inches: side of a picture, width of the words beside it
_COLOURS = ("#0b5fa5", "#b3541e", "#3d7a3a", "#7a3d78")


def draw_maps(
    table: pd.DataFrame,
    pictures: Mapping[str, tuple[Image.Image, str]],
    path: Path,
    title: str,
    outlines: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Draw a PNG: a row per example, the picture first, then it in grey under each method's map.

    Args:
        table: of :func:`attngraph.analysis.patches.map_table`, for one query.
        pictures: ``{example: (picture, words)}``.
        path: of the PNG.
        title: over the figure.
        outlines: ``{example: bool (patches,)}``, a region to outline.
    """
    methods = list(dict.fromkeys(table["method"]))
    width = 0.2 + _TEXT + (_CELL + 0.1) * (1 + len(methods)) + 1.0
    height = 0.7 + (_CELL + 0.1) * len(pictures) + 0.1
    lift = table["lift"].to_numpy()
    most = max(2.0, float(np.nanquantile(lift, 0.99))) if np.isfinite(lift).any() else 2.0
    norm = Normalize(0, most)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)

        def place(column: int, row: int, picture: Image.Image):
            left, bottom = 0.2 + _TEXT + column * (_CELL + 0.1), height - 0.6 - (row + 1) * (_CELL + 0.1)
            axes = figure.add_axes((left / width, bottom / height, _CELL / width, _CELL / height))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_box_aspect(picture.height / picture.width)
            return axes

        figure.text(0.2 / width, 1 - 0.25 / height, title, fontsize=12, fontweight="bold", va="center")
        for row, (name, (picture, words)) in enumerate(pictures.items()):
            outline = (outlines or {}).get(name)
            axes = place(0, row, picture)
            axes.imshow(picture, extent=(0, 1, 1, 0), aspect="auto")
            figure.text(
                0.2 / width,
                (height - 0.7 - (row + 0.5) * (_CELL + 0.1)) / height,
                textwrap.fill(words, 24, max_lines=7, placeholder=" …"),
                va="center",
                fontsize=9,
            )
            for column, method in enumerate(methods):
                axes = place(1 + column, row, picture)
                if row == 0:
                    axes.set_title(method, fontsize=9.5, fontweight="bold", pad=4)
                part = table[(table["example"] == name) & (table["method"] == method)]
                grid = part.pivot(index="row", columns="column", values="lift").to_numpy()
                axes.imshow(
                    picture.convert("L"), cmap="gray", vmin=-60, vmax=310, extent=(0, 1, 1, 0), aspect="auto"
                )
                axes.imshow(grid, cmap=_HEAT, norm=norm, extent=(0, 1, 1, 0), aspect="auto")
                if not np.isfinite(grid).any():
                    axes.text(0.5, 0.5, "0 everywhere", ha="center", va="center", fontsize=8, color="white")
                if outline is not None:
                    _outline(axes, np.asarray(outline).reshape(grid.shape))
        bar = figure.add_axes(((width - 0.85) / width, 0.2 / height, 0.14 / width, (height - 0.9) / height))
        figure.colorbar(ScalarMappable(norm, _HEAT), cax=bar, extend="max")
        bar.set_ylabel("share of the map, 1 = uniform", fontsize=8.5)
        bar.tick_params(labelsize=8)
        figure.savefig(path, format="png")


def draw_mass(summary: pd.DataFrame, path: Path, title: str) -> None:
    """Draw a PNG: the mean mass inside the region with its interval, a row per method and query; the uniform
    map's mean is the dotted line.

    Args:
        summary: of :func:`attngraph.analysis.patches.mass_summary`.
        path: of the PNG.
        title: over the figure.
    """
    rows = summary[summary["method"] != "uniform"]
    uniform = summary[summary["method"] == "uniform"].iloc[0]
    queries = list(dict.fromkeys(rows["query"]))
    height = 1.25 + 0.3 * len(rows)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, height), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.3, 0.62 / height, 0.56, 0.3 * len(rows) / height))
        for k, row in enumerate(rows.itertuples()):
            colour = _COLOURS[queries.index(row.query) % len(_COLOURS)]
            bounds = [[100 * max(0.0, row.mass - row.low)], [100 * max(0.0, row.high - row.mass)]]
            style: Any = {"fmt": "o", "color": colour, "markersize": 5, "elinewidth": 1.4, "capsize": 2.5}
            axes.errorbar(100 * row.mass, k, xerr=None if np.isnan(bounds).any() else bounds, **style)
            percent, beside = f"{100 * row.mass:.1f} %", axes.get_yaxis_transform()
            axes.text(1.02, k, percent, transform=beside, va="center", color=colour)
        mean = 100 * uniform.mass
        axes.axvline(mean, linestyle=":", color="#444444", linewidth=1.1)
        axes.text(mean, -0.75, f"uniform {mean:.1f} %", ha="center", fontsize=8, color="#444444")
        axes.set_yticks(range(len(rows)), [f"{row.method}, {row.query}" for row in rows.itertuples()])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"mass inside, % (mean and interval over {uniform.examples} examples)")
        for side in ("left", "right", "top"):
            axes.spines[side].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#eeeeee")
        axes.set_axisbelow(True)
        figure.text(0.02, 1 - 0.22 / height, title, fontsize=11, fontweight="bold", va="center")
        figure.savefig(path, format="png")


def _outline(axes, inside: np.ndarray) -> None:
    """The border of a set of patches, whatever its form."""
    fine = np.pad(np.kron(inside, np.ones((8, 8))), 1)  # so that the border runs along the patches
    ends = [(np.arange(size) - 0.5) / (size - 2) for size in fine.shape]
    axes.contour(ends[1], ends[0], fine, levels=[0.5], colors=["#00d0ff"], linewidths=1.4)
