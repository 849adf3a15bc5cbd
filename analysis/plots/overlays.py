"""Maps over images, and the mass of maps inside a region."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, LinearSegmentedColormap, Normalize
from PIL import Image

from attngraph.analysis.plots.style import COLOURS, COLUMN, GREY, PAGE, new_figure, save, styled
from attngraph.extras import pandas as pd

_HEAT = LinearSegmentedColormap.from_list("heat", [(1, 0.6, 0, 0), (1, 0.3, 0, 0.5), (0.7, 0, 0.1, 0.85)])
_CHANGE = LinearSegmentedColormap.from_list(
    "change",
    [(0.02, 0.19, 0.58, 0.85), (0.1, 0.45, 0.85, 0.5), (1, 1, 1, 0), (1, 0.3, 0, 0.5), (0.7, 0, 0.1, 0.85)],
)
_TEXT, _GAP, _TOP, _BAR = 1.25, 0.06, 0.22, 0.62  # inches: words beside an image, between images, above, bar
_LARGEST = 1.7  # inches, side of an image


def draw_maps(
    table: pd.DataFrame,
    images: Mapping[str, tuple[Image.Image, str]],
    stem: Path,
    subject: str,
    outlines: Mapping[str, np.ndarray] | None = None,
    changes: bool = False,
) -> None:
    """Plot a row per example: the image, then the image in grey under the map of each method.

    Args:
        table: of :func:`attngraph.analysis.patches.map_table`, for one query.
        images: ``{example: (image, words)}``.
        stem: path of the files, see :func:`attngraph.analysis.plots.style.save`.
        subject: whose maps these are, the caption's first sentence.
        outlines: ``{example: bool (patches,)}``, a region to outline.
        changes: the table holds differences (:func:`attngraph.analysis.patches.map_changes`); their scale
            diverges from 0.
    """
    methods = list(dict.fromkeys(table["method"]))
    lift = table["lift"].to_numpy()
    finite = np.abs(lift[np.isfinite(lift)])
    most = float(np.quantile(finite, 0.99)) if len(finite) else 0.0
    norm = CenteredNorm(0, most or 1.0) if changes else Normalize(0, max(2.0, most))
    colours = _CHANGE if changes else _HEAT
    side = min(_LARGEST, (PAGE - _TEXT - _BAR) / (1 + len(methods)) - _GAP)
    height = _TOP + (side + _GAP) * len(images)
    with styled():
        figure = new_figure(PAGE, height, layout=None)

        def place(column: int, row: int, image: Image.Image):
            left, bottom = _TEXT + column * (side + _GAP), height - _TOP - (row + 1) * (side + _GAP)
            axes = figure.add_axes((left / PAGE, (bottom + _GAP) / height, side / PAGE, side / height))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_box_aspect(image.height / image.width)
            axes.spines[["top", "right"]].set_visible(True)
            return axes

        for row, (name, (image, words)) in enumerate(images.items()):
            outline = (outlines or {}).get(name)
            axes = place(0, row, image)
            axes.imshow(image, extent=(0, 1, 1, 0), aspect="auto")
            middle = height - _TOP - (row + 0.5) * (side + _GAP)
            words = textwrap.fill(words, 19, max_lines=7, placeholder=" …")
            figure.text(0.05 / PAGE, (middle + _GAP / 2) / height, words, va="center", fontsize=7)
            for column, method in enumerate(methods):
                axes = place(1 + column, row, image)
                if row == 0:
                    axes.set_title(method, loc="center", pad=4)
                part = table[(table["example"] == name) & (table["method"] == method)]
                grid = part.pivot(index="row", columns="column", values="lift").to_numpy()
                grey = {"cmap": "gray", "vmin": -60, "vmax": 310}
                axes.imshow(image.convert("L"), extent=(0, 1, 1, 0), aspect="auto", **grey)
                axes.imshow(grid, cmap=colours, norm=norm, extent=(0, 1, 1, 0), aspect="auto")
                if not np.isfinite(grid).any():
                    axes.text(0.5, 0.5, "0 everywhere", ha="center", va="center", fontsize=7, color="white")
                if outline is not None:
                    _outline(axes, np.asarray(outline).reshape(grid.shape))
        right = _TEXT + (1 + len(methods)) * (side + _GAP)
        bar = figure.add_axes((right / PAGE, _GAP / height, 0.1 / PAGE, (height - _TOP - _GAP) / height))
        figure.colorbar(ScalarMappable(norm, colours), cax=bar, extend="both" if changes else "max")
        bar.set_ylabel("change of weight, 1 = uniform" if changes else "weight, 1 = uniform", fontsize=7)
    reading = (
        "Difference of each patch's fraction of the map, as a multiple of the uniform fraction; red: more"
        if changes
        else "Colour: each patch's fraction of the map, as a multiple of the uniform fraction"
    )
    scale = "One colour scale for all panels; it ends at the 99th percentile."
    target = " Cyan outline: the object that the text asks for." if outlines else ""
    save(figure, stem, f"{subject}\n{reading}. {scale}{target}")


def draw_mass(summary: pd.DataFrame, stem: Path, subject: str) -> None:
    """Plot the mean mass inside the region with its interval, a row per method, a colour per query; the
    uniform map's mean is the dotted line.

    Args:
        summary: of :func:`attngraph.analysis.patches.mass_summary`.
        stem: path of the files, see :func:`attngraph.analysis.plots.style.save`.
        subject: whose maps these are, the caption's first sentence.
    """
    rows = summary[summary["method"] != "uniform"]
    uniform = summary[summary["method"] == "uniform"].iloc[0]
    methods, queries = (list(dict.fromkeys(rows[name])) for name in ("method", "query"))
    apart = 0.36 / max(1, len(queries) - 1)
    with styled():
        figure = new_figure(COLUMN, 0.75 + 0.3 * len(methods))
        axes = figure.subplots()
        for row in rows.itertuples():
            query = queries.index(row.query)
            place = methods.index(row.method) + (query - (len(queries) - 1) / 2) * apart
            colour = COLOURS[query % len(COLOURS)]
            bounds = [[100 * max(0.0, row.mass - row.low)], [100 * max(0.0, row.high - row.mass)]]
            style: Any = {"fmt": "o", "color": colour, "elinewidth": 1.4}
            style["label"] = row.query if row.method == methods[0] else None
            axes.errorbar(100 * row.mass, place, xerr=None if np.isnan(bounds).any() else bounds, **style)
        axes.axvline(100 * uniform.mass, linestyle=":", color=GREY, linewidth=1.1, label="uniform")
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(len(methods) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel("map inside the object, %")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelsize=8)
        axes.grid(axis="x")
        figure.legend(loc="outside lower center", ncols=len(queries) + 1)
    reading = (
        "Fraction of each map inside the object that the text asks for: mean and 95 % bootstrap interval "
        f"over {uniform.examples} examples, for each attending token. Dotted: the uniform map."
    )
    save(figure, stem, f"{subject}\n{reading}")


def _outline(axes, inside: np.ndarray) -> None:
    """The border of a set of patches of any shape."""
    fine = np.pad(np.kron(inside, np.ones((8, 8))), 1)  # so that the border runs along the patches
    ends = [(np.arange(size) - 0.5) / (size - 2) for size in fine.shape]
    axes.contour(ends[1], ends[0], fine, levels=[0.5], colors=["#00d0ff"], linewidths=1.4)
