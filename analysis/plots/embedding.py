"""Maps of nodes as a figure: a panel for each layer, head and setting, with its quality under it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attngraph.extras import pandas as pd

COLOURS = ("role", "modality", "class", "token", "example")
METHOD_NAMES = {"tsne": "t-SNE", "umap": "UMAP", "pca": "principal component"}
_PALETTE = ("#0b5fa5", "#e07b00", "#1a9850", "#b2182b", "#7b4ba0", "#8c6239", "#35b6d6", "#d6569d", "#9a9a00")
_REST = "#b5b5b5"
_MARKERS = {"query": "o", "value": "^"}
_STYLE: Any = {  # of matplotlib
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,
    "svg.fonttype": "none",
}
_PANEL, _GAP, _HEAD, _FOOT, _LINE = 3.1, 0.35, 0.5, 0.8, 0.17  # inches
_WIDTH = 6.2  # inches, of the narrowest figure, whose title and notes need them


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
    head and state a column. Panels that would all stand in one row or one column fill several, in order.
    Shapes tell the roles; of more than 9 classes or tokens the most frequent are coloured.

    Args:
        table: a row for each point, with the columns of ``attngraph.analysis.points.COLUMNS`` and x, y,
            method, state, perplexity, seed, and two numbers: map, and panel, one for each state shown on a
            map.
        quality: a row for each measure of each panel; see :func:`attngraph.analysis.embedding.quality`.
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
    keys = _keys(names, colour)
    size = _Layout.of(rows, columns, len(keys), notes)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(size.width, size.height), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        figure.text(*size.at(0.2, 0.25), title, fontsize=12, fontweight="bold", va="center")
        for panel, (row, column) in places.items():
            axes = figure.add_axes(size.box(row, column))
            _frame(axes, table[table["map"] == panels["map"][panel]])
            points = table[table.panel == panel]
            _draw_points(axes, points, names(points[colour]), METHOD_NAMES[panels["method"][panel]])
            captions = [
                *_captions(panels, panel, len(points)),
                *_quality_lines(quality[quality.panel == panel], colour),
            ]
            _write(axes, captions, size.panel)
        _draw_legend(figure, size, names, keys)
        for k, line in enumerate(reversed(size.notes)):
            figure.text(*size.at(0.2, size.height - 0.15 - _LINE * k), line, fontsize=8, color="#444444")
        for path in paths:
            figure.savefig(path)


@dataclass(frozen=True)
class _Layout:
    """Sizes of a figure in inches, and places in it from the upper left."""

    width: float
    height: float
    panel: float
    top: float
    legend_columns: int
    notes: list[str]

    @staticmethod
    def of(rows: int, columns: int, keys: int, notes: Sequence[str]) -> _Layout:
        width = max(columns * (_PANEL + _GAP) + _GAP, _WIDTH)
        panel = (width - _GAP) / columns - _GAP
        legend_columns = max(1, int((width - 0.4) / 1.35))
        lines = [line for note in notes for line in textwrap.wrap(note, int(width * 14.5))]
        top = 0.5 + 0.22 * ceil(keys / legend_columns)
        height = top + rows * (_HEAD + panel + _FOOT) + _LINE * len(lines) + 0.25
        return _Layout(width, height, panel, top, legend_columns, lines)

    def at(self, left: float, down: float) -> tuple[float, float]:
        """A place in shares of the figure's width and height, from the lower left."""
        return left / self.width, 1 - down / self.height

    def box(self, row: int, column: int) -> tuple[float, float, float, float]:
        """The axes of a panel."""
        left = _GAP + column * (self.panel + _GAP)
        bottom = self.top + row * (_HEAD + self.panel + _FOOT) + _HEAD + self.panel
        return *self.at(left, bottom), self.panel / self.width, self.panel / self.height


def _draw_legend(figure: Figure, size: _Layout, names: _Names, keys: list[Line2D]) -> None:
    if keys:
        figure.legend(
            handles=keys,
            loc="upper left",
            bbox_to_anchor=size.at(0.1, 0.4),
            borderaxespad=0,
            ncols=size.legend_columns,
            frameon=False,
            fontsize=8,
            handletextpad=0.1,
            columnspacing=1,
        )
    if names.scale is not None:
        bar = figure.add_axes((*size.at(3.1, 0.53), 2.2 / size.width, 0.1 / size.height))
        figure.colorbar(names.scale, cax=bar, orientation="horizontal")
        bar.tick_params(labelsize=7, length=2, pad=1)
        figure.text(*size.at(3.0, 0.48), "example, in order", fontsize=8, ha="right", va="center")


class _Names:
    """Colours of the labels of a table: by name, or on a scale where they are examples in order."""

    def __init__(self, labels: pd.Series, colour: str):
        self.scale: ScalarMappable | None = None
        self.colours: dict[str, str] = {}
        self.rest: list[str] = []
        counts = labels[labels != ""].value_counts()
        if colour == "example" and len(counts) > len(_PALETTE):
            order = list(dict.fromkeys(labels))
            self.place = {name: k for k, name in enumerate(order)}
            self.scale = ScalarMappable(Normalize(1, len(order)), "viridis")
            return
        known = {"role": ["query", "value"], "modality": ["text", "image"]}.get(colour, [])
        shown = [name for name in known if name in counts]
        shown += [name for name in counts.index if name not in known]
        self.colours = dict(zip(shown[: len(_PALETTE)], _PALETTE))
        if len(shown) > len(_PALETTE):
            self.rest.append("other")
        if (labels == "").any():
            self.rest.append("no label")

    def __call__(self, labels: pd.Series) -> np.ndarray:
        if self.scale is not None:
            return self.scale.to_rgba(labels.map(self.place) + 1)
        return np.array([to_rgba(self.colours.get(name, _REST)) for name in labels])


def _keys(names: _Names, colour: str) -> list[Line2D]:
    """The entries of the legend: colours, then the shapes of the roles where these have no colour."""
    shapes = _MARKERS if colour == "role" else {}
    keys = [
        _key(textwrap.shorten(name, 22, placeholder="…") if " " in name else name[:22], shape, face)
        for name, face in names.colours.items()
        for shape in [shapes.get(name, "s")]
    ]
    if names.scale is None and names.rest:
        keys.append(_key(", ".join(names.rest), "s", _REST))
    return keys + [_key(role, marker, "#333333") for role, marker in _MARKERS.items() if role not in shapes]


def _key(label: str, marker: str, face: str) -> Line2D:
    style: Any = {"linestyle": "", "markersize": 5, "markeredgewidth": 0}
    return Line2D([], [], marker=marker, markerfacecolor=face, label=label, **style)


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
    # sorting is stable, so heads stay in their order
    order = sorted(columns, key=lambda key: ["self", "unknown", "cross"].index(key[0]))
    places = {
        panel.Index: (
            row_of[panel.layer] * len(settings) + settings.index(_setting(panel)),
            order.index((panel.kind, panel.head, panel.state)),
        )
        for panel in panels.itertuples()
    }
    height, width = len(rows) * len(settings), len(order)
    if 1 not in (height, width):
        return places, height, width
    width = _columns(len(places))
    places = {panel: divmod(row + column, width) for panel, (row, column) in places.items()}
    return places, ceil(len(places) / width), width


def _columns(count: int) -> int:
    """In how many columns so many panels leave the fewest places empty, the most where several do."""
    return count if count <= 3 else min((3, 4, 5), key=lambda columns: (-count % columns, -columns))


def _setting(panel) -> tuple[str, str]:
    return str(panel.perplexity), str(panel.seed)  # as text, since PCA has NaN, which equals no number


def _draw_points(axes: Axes, points: pd.DataFrame, colours: np.ndarray, method: str) -> None:
    order = np.random.default_rng(0).permutation(len(points))  # no class hides another
    for role, marker in _MARKERS.items():
        chosen = order[(points.role == role).to_numpy()[order]]
        axes.scatter(
            points.x.to_numpy()[chosen],
            points.y.to_numpy()[chosen],
            s=7 if len(points) < 5000 else 3,
            c=colours[chosen],
            marker=marker,
            alpha=0.75,
            linewidths=0,
            rasterized=len(points) > 5000,
        )
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color("#bbbbbb")
    axes.set_xlabel(f"{method} 1", fontsize=7, color="#666666", labelpad=2)
    axes.set_ylabel(f"{method} 2", fontsize=7, color="#666666", labelpad=2)


def _captions(panels: pd.DataFrame, panel: int, points: int) -> tuple[str, str, str]:
    """What stands above a panel, its layer, and its settings."""
    about = panels.loc[panel]
    heading = [{"self": "self-attention", "cross": "cross-attention"}.get(about.kind, "attention")]
    heading.append("all heads" if about["head"] == "all" else f"head {about['head']}")
    heading += [about.state] if panels.state.nunique() > 1 else []
    settings = [f"{name} {about[name]:g}" for name in ("perplexity", "seed") if panels[name].nunique() > 1]
    return " · ".join(heading), _short(about.layer), ", ".join([*settings, f"{points:,} points"])


def _write(axes: Axes, captions: Sequence[str], height: float) -> None:
    """The captions around a panel of so many inches, the measures in the lines after the third."""
    heading, layer, settings, *measures = captions
    at: Any = {"transform": axes.transAxes}
    small = {**at, "fontsize": 6.5, "color": "#444444"}
    axes.text(0, 1 + 0.28 / height, heading, fontweight="bold", fontsize=9, **at)
    axes.text(0, 1 + 0.08 / height, layer, **small)
    axes.text(1, -0.16 / height, settings, ha="right", **small)
    axes.text(0, -0.23 / height, "\n".join(measures), va="top", fontsize=7.5, linespacing=1.35, **at)


def _frame(axes: Axes, points: pd.DataFrame) -> None:
    """The same square for all states on a map, with one scale for both directions."""
    low, high = points[["x", "y"]].min(), points[["x", "y"]].max()
    centre, half = (low + high) / 2, 0.54 * ((high - low).max() or 1)
    axes.set(xlim=(centre.x - half, centre.x + half), ylim=(centre.y - half, centre.y + half))


def _short(layer: str, most: int = 54) -> str:
    return layer if len(layer) <= most else "…" + layer[1 - most :]


def _quality_lines(quality: pd.DataFrame, colour: str) -> list[str]:
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
