"""Figures of heterophily tables (:class:`attngraph.analysis.heterophily.Heterophily`): layer by head heat
maps, curves over layers, spectra."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure

from attngraph.extras import pandas as pd

NAMES = {
    "edge": "edge homophily",
    "node_query": "node homophily, queries",
    "node_value": "node homophily, values",
    "class_insensitive": "class-insensitive homophily",
    "adjusted": "adjusted homophily",
    "label_informativeness": "label informativeness",
    "aggregation": "aggregation homophily",
    "neighbourhood_contrast": "neighbourhood contrast",
    "cosine": "mean cosine",
    "generalised_edge": "generalised edge homophily",
    "dirichlet": "Dirichlet energy",
    "dirichlet_normalised": "Dirichlet energy / ‖X‖²",
    "p_dirichlet": "p-Dirichlet energy",
    "p_dirichlet_normalised": "p-Dirichlet energy / Σ‖x‖ᵖ",
    "neighbour_cka": "CKA of query and what it reads",
    "entropy": "attention entropy",
    "effective_degree": "effective degree, queries",
    "effective_degree_value": "effective degree, values",
    "hubs": "hubs among the values",
    "self_weight": "weight on itself",
    "mmd": "MMD² of the two clouds",
    "probe_auc": "linear probe AUC",
    "closed_form_r": "pGNN and its closed form, r",
    "closed_form_variation": "pGNN to its closed form",
    "lengths_variation": "pGNN to lengths and degrees",
    "attention_variation": "pGNN to attention",
    "contrast": "contrast of distances",
    "contrast_raw": "contrast of distances, raw",
    "distance_auc": "AUC of distance",
    "distractor_mass": "weight on distractors",
    "rotation_change": "contrast, change by rotation",
    "queries_per_value": "queries per value",
}
HEADLINE = (
    "adjusted",
    "label_informativeness",
    "generalised_edge",
    "dirichlet_normalised",
    "entropy",
    "neighbour_cka",
    "probe_auc",
    "mmd",
    "contrast",
    "distance_auc",
    "distractor_mass",
)
_COLOURS = ("#0b5fa5", "#b3541e", "#2f8f4e", "#7d3c98")
_COLUMNS = 4  # panels in a row
_EXCESS = (
    "Excess over the permuted null (entropy: over uniform attention; regions: over a shifted one); white = "
    "nothing beyond it"
)
DIFFERENCE = " − "  # in the column weights of a paired difference


def is_difference(table: pd.DataFrame) -> pd.Series:
    """True for lines with paired differences of two kinds of weights."""
    return table.weights.str.contains(DIFFERENCE, regex=False)


def stack(layer: str) -> str:
    """A layer's name with * in place of numbers."""
    return re.sub(r"\d+", "*", layer)


def stacks(table: pd.DataFrame) -> dict[str, list[str]]:
    """Layers that differ in numbers only, ``{name with * in place of numbers: layers}``: one figure each."""
    layers: dict[str, list[str]] = {}
    for layer in table.layer.unique():
        layers.setdefault(stack(layer), []).append(layer)
    return layers


def number(layer: str) -> str:
    """The numbers in a layer's name."""
    return ".".join(re.findall(r"\d+", layer)) or layer


def entries(table: pd.DataFrame, statistics: tuple[str, ...] = HEADLINE) -> list[tuple[str, str]]:
    """The pairs (statistic, labels) of a table that hold a number, in the order of ``statistics``."""
    known = table[table.value.notna()]
    pairs = known[["statistic", "labels"]].drop_duplicates().itertuples(index=False, name=None)
    return sorted(
        (pair for pair in pairs if pair[0] in statistics),
        key=lambda pair: (pair[1], statistics.index(pair[0])),
    )


def heat_maps(table: pd.DataFrame, path: Path, title: str, column: str = "excess") -> None:
    """Layers by heads, a panel for each statistic. Grey, hatched: undefined, or degenerate labels.

    Args:
        table: of one stack of layers and one kind of weights.
        column: which number is shown.
    """
    pairs, layers = entries(table), list(table.layer.unique())
    heads = sorted(head for head in table["head"].unique() if head != "all")
    figure, panels = _grid(len(pairs), 1.2 + 0.28 * len(layers), title)
    for panel, (statistic, labels) in zip(panels, pairs):
        chosen = table[(table.statistic == statistic) & (table.labels == labels) & (table["head"] != "all")]
        numbers = (
            chosen.pivot(index="layer", columns="head", values=column)
            .reindex(index=layers, columns=heads)
            .to_numpy(float)
        )
        limit = np.nanmax(np.abs(numbers), initial=1e-12)
        norm = CenteredNorm(0, limit) if column == "excess" or np.nanmin(numbers) < 0 else None
        panel.set_facecolor("#dddddd")
        panel.patch.set(hatch="////", edgecolor="#aaaaaa")
        drawn = panel.imshow(
            numbers, aspect="auto", cmap="RdBu_r" if norm else "viridis", norm=norm, interpolation="nearest"
        )
        bar = figure.colorbar(drawn, ax=panel, fraction=0.07, pad=0.03)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
        panel.set_title(_name(statistic, labels), fontsize=8.5, loc="left")
        _numbered(panel.set_xticks, len(heads), heads)
        _numbered(panel.set_yticks, len(layers), map(number, layers))
        panel.set_xlabel("head", fontsize=8)
        panel.set_ylabel("layer", fontsize=8)
    meaning = _EXCESS if column == "excess" else column
    note = f"{meaning}; hatched = undefined, or degenerate labels"
    figure.supxlabel(note, fontsize=8, color="#444444")
    figure.savefig(path, dpi=150)


def curves(table: pd.DataFrame, path: Path, title: str) -> None:
    """Means over heads along the layers with their intervals, beside both nulls, or, for differences, beside
    0. One colour for each kind of weights.

    Args:
        table: of one stack of layers; differences of weights only, or none.
    """
    pairs, layers = entries(table), list(table.layer.unique())
    variants, differences = list(table.weights.unique()), bool(is_difference(table).all())
    figure, panels = _grid(len(pairs), 2.0, title)
    means = table[table["head"] == "all"]
    for panel, (statistic, labels) in zip(panels, pairs):
        if differences:
            panel.axhline(0, color="#666666", linewidth=0.8)
        of_panel = means[(means.statistic == statistic) & (means.labels == labels)]
        for k, (colour, variant) in enumerate(zip(_COLOURS, variants)):
            rows = of_panel[of_panel.weights == variant].set_index("layer").reindex(layers)
            shift = 0.1 * (k - (len(variants) - 1) / 2)  # side by side
            style = _CurveStyle(colour, variant, shift, len(variants) == 1, not differences)
            _curve(panel, rows, style)
        panel.set_title(_name(statistic, labels), fontsize=8.5, loc="left")
        panel.set_xlabel("layer", fontsize=8)
        _numbered(panel.set_xticks, len(layers), map(number, layers))
        panel.margins(x=0.08, y=0.12)
        if len(layers) == 1:
            panel.set_xlim(-0.4, 0.4)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    handles = [
        panels[0].plot([], [], "o-", color=colour, markersize=3.5, label=variant)[0]
        for colour, variant in zip(_COLOURS, variants)
    ]
    if not differences:
        handles += [
            panels[0].plot([], [], style, color="#666666", label=label)[0]
            for style, label in ((":", "permuted null (regions: shifted)"), ("--", "uniform null"))
        ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        fontsize=8,
        frameon=False,
        title="mean over heads and examples; bands and bars: bootstrap intervals over examples",
        title_fontsize=8,
    )
    figure.savefig(path, dpi=150)


@dataclass(frozen=True)
class _CurveStyle:
    """Appearance of the curve of one kind of weights; ``shift`` is to the right, in layers."""

    colour: str
    label: str
    shift: float
    alone: bool
    nulls: bool


def _curve(panel: Axes, rows: pd.DataFrame, style: _CurveStyle) -> None:
    """One curve with its intervals and nulls; ``rows`` are the layers' in order."""
    x = np.arange(len(rows)) + style.shift
    panel.plot(x, rows.value, "o-", color=style.colour, markersize=3.5, linewidth=1.3, label=style.label)
    if style.alone and len(rows) > 1:
        panel.fill_between(x, rows.low, rows.high, color=style.colour, alpha=0.2, linewidth=0)
    else:
        panel.vlines(x, rows.low, rows.high, color=style.colour, linewidth=1)
    if not style.nulls:
        return
    shade = "#666666" if style.alone else style.colour
    for null, dashes in (("null_permuted", ":"), ("null_uniform", "--")):
        if len(rows) > 1:
            panel.plot(x, rows[null], dashes, color=shade, linewidth=1)
        else:
            panel.hlines(rows[null], x - 0.04, x + 0.04, color=shade, linewidth=1.2, linestyle=dashes)


def spectra(spectrum: pd.DataFrame, path: Path, title: str) -> None:
    """Energy of the features over the frequencies, a panel for each layer, beside both nulls and the density
    of eigenvalues.

    Args:
        spectrum: of one stack of layers and one kind of weights.
    """
    layers = list(spectrum.layer.unique())
    figure, panels = _grid(len(layers), 2.0, title)
    for k, (panel, layer) in enumerate(zip(panels, layers)):
        chosen = spectrum[(spectrum.layer == layer) & (spectrum["head"] == "all")]
        energy = chosen[chosen.statistic == "spectral_energy"].sort_values("frequency")
        density = chosen[chosen.statistic == "spectral_density"].sort_values("frequency")
        x, width = energy.frequency.to_numpy(), 2 / len(energy)
        panel.bar(x, density.value, width, color="#d9d9d9", label="density of eigenvalues")
        panel.fill_between(x, energy.low, energy.high, step="mid", color=_COLOURS[0], alpha=0.25, linewidth=0)
        for column, label, style in (
            ("value", "energy of the features", {"color": _COLOURS[0], "linewidth": 1.4}),
            ("null_permuted", "permuted null", {"color": _COLOURS[1], "linewidth": 1.2, "linestyle": ":"}),
            ("null_uniform", "uniform null", {"color": "#666666", "linewidth": 1, "linestyle": "--"}),
        ):
            panel.step(x, energy[column], where="mid", label=label, **style)
        panel.set_yscale("symlog", linthresh=0.01)  # most lies at 0 and 1
        panel.set_ylim(0, 1)
        panel.set_yticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
        panel.set_yticks([], minor=True)
        panel.set_title(f"layer {number(layer)}", fontsize=8.5, loc="left")
        panel.set_xlabel("frequency (eigenvalue of I − S)", fontsize=8)
        if k % _COLUMNS == 0:
            panel.set_ylabel("share (symlog)", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False
    )
    figure.savefig(path, dpi=150)


def _grid(count: int, height: float, title: str):
    """A figure with ``count`` panels in rows of four.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not count:
        raise ValueError("the table holds no number to draw")
    rows, columns = -(-count // _COLUMNS), min(count, _COLUMNS)
    figure = Figure(figsize=(max(5.5, 3.1 * columns), rows * (height + 0.5) + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[count:]:
        panel.set_axis_off()
    return figure, panels[:count]


def _name(statistic: str, labels: str) -> str:
    return NAMES.get(statistic, statistic) + (f"\nby {labels}" if labels else "")


def _numbered(set_ticks, count: int, names) -> None:
    """At most about a dozen ticks."""
    step = -(-count // 12)
    set_ticks(range(0, count, step), [str(name) for name in list(names)[::step]], fontsize=7)
