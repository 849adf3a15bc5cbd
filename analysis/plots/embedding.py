"""Maps of nodes as a figure: a panel for each layer, head and setting; their quality is in the caption."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attngraph.analysis.plots import style
from attngraph.extras import pandas as pd

COLOURS = ("role", "modality", "class", "token", "example")
METHOD_NAMES = {"tsne": "t-SNE", "umap": "UMAP", "pca": "PCA"}
_PALETTE = style.COLOURS
_REST = "#b5b5b5"
_MARKERS = {"query": "o", "value": "^"}
_MARGIN, _GAP, _HEAD, _KEY = (
    0.08,
    0.12,
    0.3,
    0.18,
)  # inches; the last two: above a panel, a line of the legend
_LARGEST = 3.3  # inches, side of a panel
_KEYS = 5  # in a line of the legend


def draw(
    table: pd.DataFrame,
    quality: pd.DataFrame,
    stem: Path,
    colour: str = "role",
    subject: str = "",
    notes: Sequence[str] = (),
) -> None:
    """Plot the maps of a table.

    Self- and cross-attention of a block are side by side; every block, perplexity and seed has a row, every
    head and state a column. Panels that would all be in one row or one column fill several, in order. Shapes
    are roles; of more than 9 classes or tokens the most frequent are coloured.

    Args:
        table: a row for each point, with the columns of ``attngraph.analysis.points.COLUMNS`` and x, y,
            method, state, perplexity, seed, and two numbers: map, and panel, one for each state shown on a
            map.
        quality: a row for each measure of each panel; see :func:`attngraph.analysis.embedding.quality`.
        stem: path of the files, see :func:`attngraph.analysis.plots.style.save`.
        colour: one of ``COLOURS``.
        subject: what is shown, the caption's first sentence.
        notes: last sentences of the caption.

    Raises:
        ValueError: another colour, or a table without rows.
    """
    if colour not in COLOURS:
        raise ValueError(f"colour must be one of {', '.join(COLOURS)}, got {colour!r}")
    if table.empty:
        raise ValueError("table has no rows: nothing to plot")
    panels = table.groupby("panel", sort=False).first()
    places, rows, columns = _places(panels)
    names = _Names(table[colour], colour)
    keys = _keys(names, colour)
    side = min(_LARGEST, (style.PAGE - 2 * _MARGIN + _GAP) / columns - _GAP)
    width = max(style.COLUMN, 2 * _MARGIN + columns * (side + _GAP) - _GAP)
    per_line = max(1, int(_KEYS * width / style.PAGE))
    top = _MARGIN + _KEY * max(1, ceil(len(keys) / per_line))
    height = top + rows * (_HEAD + side + _GAP)
    letters = dict(zip(sorted(places, key=lambda panel: places[panel]), _letters()))  # in reading order
    captions = {}
    with style.styled():
        figure = style.new_figure(width, height, layout=None)
        for panel, (row, column) in places.items():
            left = _MARGIN + column * (side + _GAP)
            bottom = height - top - (row + 1) * (_HEAD + side + _GAP) + _GAP
            axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
            _frame(axes, table[table["map"] == panels["map"][panel]])
            points = table[table.panel == panel]
            _draw_points(axes, points, names(points[colour]))
            heading, about = _captions(panels, panel, len(points))
            axes.set_title(f"({letters[panel]}) {heading}")
            measures = _quality_lines(quality[quality.panel == panel], colour)
            captions[letters[panel]] = f"({letters[panel]}) {'; '.join([about, *measures])}."
        _draw_legend(figure, names, keys, per_line)
    style.save(figure, stem, "\n".join([subject, *(captions[letter] for letter in letters.values()), *notes]))


def _letters():
    """a to z, then aa, ab, …"""
    letters = "abcdefghijklmnopqrstuvwxyz"
    yield from letters
    yield from (first + second for first in letters for second in letters)


def _draw_legend(figure: Figure, names: _Names, keys: list[Line2D], columns: int) -> None:
    width, height = figure.get_size_inches()
    if keys:
        figure.legend(
            handles=keys,
            loc="upper left",
            bbox_to_anchor=(0, 1),
            borderaxespad=0.2,
            ncols=columns,
            handletextpad=0.1,
            columnspacing=1,
        )
    if names.scale is not None:
        place = ((width - 1.35) / width, 1 - 0.14 / height, 1.2 / width, 0.07 / height)
        figure.colorbar(names.scale, cax=figure.add_axes(place), orientation="horizontal")
        figure.text((width - 1.42) / width, 1 - 0.1 / height, "example", fontsize=7, ha="right", va="center")


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
    """Number of columns that leaves the fewest positions empty for this many panels; the largest if tied."""
    return count if count <= 3 else min((3, 4, 5), key=lambda columns: (-count % columns, -columns))


def _setting(panel) -> tuple[str, str]:
    return str(panel.perplexity), str(panel.seed)  # as text, since PCA has NaN, which equals no number


def _draw_points(axes: Axes, points: pd.DataFrame, colours: np.ndarray) -> None:
    order = np.random.default_rng(0).permutation(len(points))  # no class hides another
    for role, marker in _MARKERS.items():
        chosen = order[(points.role == role).to_numpy()[order]]
        axes.scatter(
            points.x.to_numpy()[chosen],
            points.y.to_numpy()[chosen],
            s=5 if len(points) < 5000 else 2,
            c=colours[chosen],
            marker=marker,
            alpha=0.75,
            linewidths=0,
            rasterized=len(points) > 5000,
        )
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set(color="#bbbbbb", visible=True)


def _captions(panels: pd.DataFrame, panel: int, points: int) -> tuple[str, str]:
    """The heading of a panel, and its layer and settings for the caption."""
    about = panels.loc[panel]
    heading = [{"self": "self-attention", "cross": "cross-attention"}.get(about.kind, "attention")]
    heading += [] if about["head"] == "all" else [f"head {about['head']}"]
    heading += [about.state] if panels.state.nunique() > 1 else []
    settings = [f"{name} {about[name]:g}" for name in ("perplexity", "seed") if panels[name].nunique() > 1]
    heads = "all heads" if about["head"] == "all" else f"head {about['head']}"
    state = [about.state] if panels.state.nunique() > 1 else []
    return ", ".join(heading), ", ".join([about.layer, heads, *state, *settings, f"{points:,} points"])


def _frame(axes: Axes, points: pd.DataFrame) -> None:
    """The same square for all states on a map, with one scale for both directions."""
    low, high = points[["x", "y"]].min(), points[["x", "y"]].max()
    centre, half = (low + high) / 2, 0.54 * ((high - low).max() or 1)
    axes.set(xlim=(centre.x - half, centre.x + half), ylim=(centre.y - half, centre.y + half))


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
