"""Maps of nodes as a figure: a panel for each layer, head and setting, with what may be trusted under it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from math import ceil
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLOURS = ("role", "modality", "class", "token", "example")
METHOD_NAMES = {"tsne": "t-SNE", "umap": "UMAP", "pca": "principal component"}
_PALETTE = ("#0b5fa5", "#e07b00", "#1a9850", "#b2182b", "#7b4ba0", "#8c6239", "#35b6d6", "#d6569d", "#9a9a00")
_REST = "#b5b5b5"
_MARKERS = {"query": "o", "value": "^"}
_PANEL, _GAP, _HEAD, _FOOT, _LINE = 3.1, 0.35, 0.5, 0.8, 0.17  # inches


def draw(
    table: pd.DataFrame,
    quality: pd.DataFrame,
    paths: Sequence[Path],
    colour: str = "role",
    title: str = "",
    notes: Sequence[str] = (),
) -> None:
    """Draw the maps of a table, and write them to files of any kind that matplotlib knows (PNG, SVG).

    Self- and cross-attention of a block stand side by side; every block, perplexity and seed has a row, every
    head and state a column. Shapes tell the roles; of more than 9 classes or tokens the most frequent are
    coloured.

    Args:
        table: a row for each point, with the columns of ``analysis.points.COLUMNS`` and x, y, method, state,
            perplexity, seed, and two numbers: map, and panel, one for each state shown on a map.
        quality: a row for each measure of each panel; see :func:`analysis.embedding.quality`.
        paths: the files.
        colour: one of ``COLOURS``.
        title, notes: above and below the panels.

    Raises:
        ValueError: another colour, or a table without rows.
    """
    if colour not in COLOURS:
        raise ValueError(f"colour must be one of {', '.join(COLOURS)}, got {colour!r}")
    if table.empty:
        raise ValueError("table has no rows: nothing to draw")
    panels = table.groupby("panel", sort=False).first()
    places, rows, columns = _places(panels)
    names = _Names(table[colour], colour)
    width = max(columns * (_PANEL + _GAP) + _GAP, 6.2)
    legend_columns = max(1, int((width - 0.4) / 1.35))
    keys = _keys(names, colour)
    top = 0.5 + 0.22 * ceil(len(keys) / legend_columns)
    lines = [line for note in notes for line in textwrap.wrap(note, int(width * 14.5))]
    height = top + rows * (_HEAD + _PANEL + _FOOT) + _LINE * len(lines) + 0.25
    with matplotlib.rc_context(
        {"font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False, "svg.fonttype": "none"}
    ):
        figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        figure.text(0.2 / width, 1 - 0.25 / height, title, fontsize=12, fontweight="bold", va="center")
        for panel, (row, column) in places.items():
            left = _GAP + column * (_PANEL + _GAP)
            upper = top + row * (_HEAD + _PANEL + _FOOT) + _HEAD
            axes = figure.add_axes(
                (left / width, 1 - (upper + _PANEL) / height, _PANEL / width, _PANEL / height)
            )
            whole = table[table["map"] == panels["map"][panel]]
            _frame(axes, whole)
            _draw_panel(axes, table[table.panel == panel], panels, panel, names, colour)
            axes.text(
                0,
                -0.075,
                "\n".join(_told(quality[quality.panel == panel], colour)),
                transform=axes.transAxes,
                va="top",
                fontsize=7.5,
                linespacing=1.35,
            )
        if keys:
            figure.legend(
                handles=keys,
                loc="upper left",
                bbox_to_anchor=(0.1 / width, 1 - 0.4 / height),
                borderaxespad=0,
                ncols=legend_columns,
                frameon=False,
                fontsize=8,
                handletextpad=0.1,
                columnspacing=1,
            )
        if names.scale is not None:
            bar = figure.add_axes((3.1 / width, 1 - 0.53 / height, 2.2 / width, 0.1 / height))
            figure.colorbar(names.scale, cax=bar, orientation="horizontal")
            bar.tick_params(labelsize=7, length=2, pad=1)
            figure.text(
                3.0 / width, 1 - 0.48 / height, "example, in order", fontsize=8, ha="right", va="center"
            )
        for k, line in enumerate(lines):
            figure.text(
                0.2 / width, (0.15 + _LINE * (len(lines) - 1 - k)) / height, line, fontsize=8, color="#444444"
            )
        for path in paths:
            figure.savefig(path)


class _Names:
    """How the labels of a table are coloured: by name, or on a scale where they are examples in order."""

    def __init__(self, labels: pd.Series, colour: str):
        self.scale = None
        counts = labels[labels != ""].value_counts()
        if colour == "example" and len(counts) > len(_PALETTE):
            order = list(dict.fromkeys(labels))
            self.place = {name: k for k, name in enumerate(order)}
            self.scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(1, len(order)), "viridis")
            self.colours = {}
            return
        known = {"role": ["query", "value"], "modality": ["text", "image"]}.get(colour, [])
        shown = [name for name in known if name in counts] + [
            name for name in counts.index if name not in known
        ]
        self.colours = dict(zip(shown[: len(_PALETTE)], _PALETTE))
        self.rest = (["other"] if len(shown) > len(_PALETTE) else []) + (
            ["no label"] if (labels == "").any() else []
        )

    def __call__(self, labels: pd.Series) -> np.ndarray:
        if self.scale is not None:
            return self.scale.to_rgba(labels.map(self.place) + 1)
        return np.array([matplotlib.colors.to_rgba(self.colours.get(name, _REST)) for name in labels])


def _keys(names: _Names, colour: str) -> list[Line2D]:
    def key(label: str, marker: str, face: str) -> Line2D:
        return Line2D(
            [],
            [],
            linestyle="",
            marker=marker,
            markersize=5,
            markerfacecolor=face,
            markeredgewidth=0,
            label=label,
        )

    shape = _MARKERS if colour == "role" else {}
    found = [
        key(
            textwrap.shorten(name, 22, placeholder="…") if " " in name else name[:22],
            shape.get(name, "s"),
            face,
        )
        for name, face in names.colours.items()
    ]
    if names.scale is None and names.rest:
        found.append(key(", ".join(names.rest), "s", _REST))
    return found + [key(role, marker, "#333333") for role, marker in _MARKERS.items() if role not in shape]


def _places(panels: pd.DataFrame) -> tuple[dict[int, tuple[int, int]], int, int]:
    """Row and column of each panel, and how many there are. The layers of a block share a row."""
    rows: list[set[str]] = []  # the kinds in each
    row_of: dict[str, int] = {}
    for layer, kind in panels.drop_duplicates("layer")[["layer", "kind"]].itertuples(index=False):
        if not rows or kind in rows[-1] or (kind == "self" and rows[-1]):
            rows.append(set())
        rows[-1].add(kind)
        row_of[layer] = len(rows) - 1
    settings = list(dict.fromkeys(_setting(panel) for panel in panels.itertuples()))
    columns = dict.fromkeys(panels[["kind", "head", "state"]].itertuples(index=False, name=None))
    order = sorted(
        columns, key=lambda key: ["self", "unknown", "cross"].index(key[0])
    )  # stable: heads as they come
    places = {
        panel.Index: (
            row_of[panel.layer] * len(settings) + settings.index(_setting(panel)),
            order.index((panel.kind, panel.head, panel.state)),
        )
        for panel in panels.itertuples()
    }
    return places, len(rows) * len(settings), len(order)


def _setting(panel) -> tuple[str, str]:
    return str(panel.perplexity), str(panel.seed)  # as words: no number equals NaN, which PCA has


def _draw_panel(
    axes: Axes, table: pd.DataFrame, panels: pd.DataFrame, panel: int, names: _Names, colour: str
) -> None:
    about = panels.loc[panel]
    shuffled = table.sample(frac=1, random_state=0)  # no class hides another
    for role, marker in _MARKERS.items():
        some = shuffled[shuffled.role == role]
        axes.scatter(
            some.x,
            some.y,
            s=7 if len(table) < 5000 else 3,
            c=names(some[colour]),
            marker=marker,
            alpha=0.75,
            linewidths=0,
            rasterized=len(table) > 5000,
        )
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color("#bbbbbb")
    method = METHOD_NAMES[about.method]
    axes.set_xlabel(f"{method} 1", fontsize=7, color="#666666", labelpad=2)
    axes.set_ylabel(f"{method} 2", fontsize=7, color="#666666", labelpad=2)

    told = [{"self": "self-attention", "cross": "cross-attention"}.get(about.kind, "attention")]
    told.append("all heads" if about["head"] == "all" else f"head {about['head']}")
    told += [about.state] if panels.state.nunique() > 1 else []
    axes.text(0, 1.09, " · ".join(told), transform=axes.transAxes, fontweight="bold", fontsize=9)
    settings = [f"{name} {about[name]:g}" for name in ("perplexity", "seed") if panels[name].nunique() > 1]
    settings.append(f"{len(table):,} points")
    small = {"transform": axes.transAxes, "fontsize": 6.5, "color": "#444444"}
    axes.text(0, 1.025, _short(about.layer), **small)
    axes.text(1, -0.05, ", ".join(settings), ha="right", **small)


def _frame(axes: Axes, points: pd.DataFrame) -> None:
    """The same square for all states on a map, with one scale for both directions."""
    low, high = points[["x", "y"]].min(), points[["x", "y"]].max()
    centre, half = (low + high) / 2, 0.54 * ((high - low).max() or 1)
    axes.set(xlim=(centre.x - half, centre.x + half), ylim=(centre.y - half, centre.y + half))


def _short(layer: str, most: int = 54) -> str:
    return layer if len(layer) <= most else "…" + layer[1 - most :]


def _told(quality: pd.DataFrame, colour: str) -> list[str]:
    """The measures of a panel in words."""
    lines = []
    for row in quality[quality.measure == "trustworthiness"].itertuples():
        lines.append(
            f"trustworthiness {row.value:.3f} (random map {row.chance:.1f}; {row.neighbours} neighbours)"
        )
    for label in dict.fromkeys(("role", colour)):
        purity = quality[(quality.measure == "purity") & (quality.label == label)].set_index("space")
        if len(purity):
            value, chance = purity.value, purity.chance.iloc[0]
            lines.append(
                f"kNN purity by {label}: V̂ {value['features']:.2f}, map {value['map']:.2f}, "
                f"chance {chance:.2f}"
            )
    return lines
