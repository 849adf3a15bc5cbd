"""Figures of heterophily tables (:class:`attngraph.analysis.heterophily.Heterophily`): layer by head heat
maps, curves over layers, spectra."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm

from attngraph.analysis.plots.style import COLOURS, DIVERGING, GREY, PAGE, SMALL, new_figure, save, styled
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
# Statistics of the curves, whose excess over the null model is an effect between −1 and 1.
CURVES = ("adjusted", "label_informativeness", "generalised_edge", "probe_auc", "contrast")
DIFFERENCE = " − "  # in the column weights of a paired difference
_COLUMNS = 4  # panels in a row
_NUMBERED = 8  # heads, at most: more leave no room for numbers in cells
_NULL = "over the permuted null model (entropy: over uniform attention; regions: over shifted regions)"
_INTERVALS = "95 % bootstrap intervals over examples"


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


def entries(
    table: pd.DataFrame, statistics: tuple[str, ...] = HEADLINE, column: str = "value"
) -> list[tuple[str, str]]:
    """The pairs (statistic, labels) for which a column holds a number, in the order of ``statistics``."""
    known = table[table[column].notna()]
    pairs = known[["statistic", "labels"]].drop_duplicates().itertuples(index=False, name=None)
    return sorted(
        (pair for pair in pairs if pair[0] in statistics),
        key=lambda pair: (pair[1], statistics.index(pair[0])),
    )


def heat_maps(table: pd.DataFrame, stem: Path, subject: str) -> None:
    """Excess over the null model, layers by heads, a panel for each statistic; all panels share one colour
    scale. Grey, hatched: undefined, or degenerate labels.

    Args:
        table: of one stack of layers and one kind of weights.
        stem: path of the files, see :func:`attngraph.analysis.plots.style.save`.
        subject: what was measured, the caption's first sentence.

    Raises:
        ValueError: there is nothing to plot.
    """
    pairs, layers = entries(table, column="excess"), list(table.layer.unique())
    each = table[table["head"] != "all"]
    heads = sorted(each["head"].unique())
    cells = {
        pair: each[(each.statistic == pair[0]) & (each.labels == pair[1])]
        .set_index(["layer", "head"])
        .reindex(pd.MultiIndex.from_product([layers, heads]))
        for pair in pairs
    }
    norm = CenteredNorm(0, max(np.nanmax(np.abs(of.excess), initial=1e-12) for of in cells.values()))
    with styled():
        figure, panels = _grid(len(pairs), 0.75 + 0.17 * len(layers))
        for panel, (pair, of_pair) in zip(panels, cells.items()):
            numbers = of_pair.excess.to_numpy(float).reshape(len(layers), len(heads))
            panel.set_facecolor("#dddddd")
            panel.patch.set(hatch="////", edgecolor="#aaaaaa")
            image = panel.imshow(numbers, aspect="auto", cmap=DIVERGING, norm=norm, interpolation="nearest")
            if len(heads) <= _NUMBERED:
                _number_cells(panel, of_pair, numbers, norm.halfrange)
            panel.set_title(_name(*pair))
            _numbered(panel.set_xticks, len(heads), heads)
            _numbered(panel.set_yticks, len(layers), map(number, layers))
            panel.set_xlabel("head")
            panel.set_ylabel("layer")
        bar = figure.colorbar(image, ax=panels, location="bottom", fraction=0.03, aspect=50, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label("excess over the null model")
    bold = " Bold: the 95 % bootstrap interval over examples excludes 0." if len(heads) <= _NUMBERED else ""
    reading = f"Excess of each statistic {_NULL}, by layer and head; one colour scale for all panels."
    save(figure, stem, f"{subject}\n{reading}{bold} Hatched: undefined, or degenerate labels.")


def _number_cells(panel: Axes, cells: pd.DataFrame, numbers: np.ndarray, limit: float) -> None:
    """The number of each entry; bold if its interval excludes 0."""
    sure = ((cells.excess_low > 0) | (cells.excess_high < 0)).to_numpy().reshape(numbers.shape)
    for (row, column), value in np.ndenumerate(numbers):
        if np.isfinite(value):
            panel.text(
                column,
                row,
                re.sub(r"([+-])0\.", r"\1.", f"{value:+.2f}").replace("-", "−"),
                ha="center",
                va="center",
                fontsize=SMALL,
                fontweight="bold" if sure[row, column] else "normal",
                color="white" if abs(value) > 0.6 * limit else "black",
            )


def curves(table: pd.DataFrame, stem: Path, subject: str) -> None:
    """Means over heads along the layers with their intervals: the excess over the null model or, in a table
    of differences, their values. A panel for each statistic of :data:`CURVES`, all with one axis; one colour
    for each kind of weights.

    Args:
        table: of one stack of layers; differences of weights only, or none.
        stem: path of the files, see :func:`attngraph.analysis.plots.style.save`.
        subject: what was measured, the caption's first sentence.

    Raises:
        ValueError: there is nothing to plot.
    """
    differences = bool(is_difference(table).all())
    value, low, high = ("value", "low", "high") if differences else ("excess", "excess_low", "excess_high")
    pairs, layers = entries(table, CURVES, value), list(table.layer.unique())
    variants = list(table.weights.unique())
    means = table[table["head"] == "all"]
    with styled():
        figure, panels = _grid(len(pairs), 1.5, sharey=True)
        for k, (panel, (statistic, labels)) in enumerate(zip(panels, pairs)):
            panel.axhline(0, color=GREY, linewidth=0.8)
            of_panel = means[(means.statistic == statistic) & (means.labels == labels)]
            for place, (colour, variant) in enumerate(zip(COLOURS, variants)):
                rows = of_panel[of_panel.weights == variant].set_index("layer").reindex(layers)
                x = np.arange(len(layers)) + 0.1 * (place - (len(variants) - 1) / 2)  # side by side
                panel.plot(x, rows[value], "o-", color=colour, markersize=3, label=variant)
                if len(variants) == 1 and len(layers) > 1:
                    panel.fill_between(x, rows[low], rows[high], color=colour, alpha=0.2, linewidth=0)
                else:
                    panel.vlines(x, rows[low], rows[high], color=colour, linewidth=1)
            panel.set_title(_name(statistic, labels))
            panel.set_xlabel("layer")
            _numbered(panel.set_xticks, len(layers), map(number, layers))
            panel.margins(x=0.08, y=0.12)
            if len(layers) == 1:
                panel.set_xlim(-0.4, 0.4)
            if k % _COLUMNS == 0:
                panel.set_ylabel("difference" if differences else "excess over null")
        if len(variants) > 1:
            figure.legend(
                *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(variants)
            )
    shown = "Differences between kinds of weights" if differences else f"Excess of each statistic {_NULL}"
    save(figure, stem, f"{subject}\n{shown}, by layer: mean over heads and examples with {_INTERVALS}.")


def spectra(spectrum: pd.DataFrame, stem: Path, subject: str) -> None:
    """Energy of the features over the frequencies, a panel for each layer, with both null models and the
    density of eigenvalues.

    Args:
        spectrum: of one stack of layers and one kind of weights.
        stem: path of the files, see :func:`attngraph.analysis.plots.style.save`.
        subject: what was measured, the caption's first sentence.

    Raises:
        ValueError: there is nothing to plot.
    """
    layers = list(spectrum.layer.unique())
    with styled():
        figure, panels = _grid(len(layers), 1.5, sharey=True)
        for k, (panel, layer) in enumerate(zip(panels, layers)):
            chosen = spectrum[(spectrum.layer == layer) & (spectrum["head"] == "all")]
            energy = chosen[chosen.statistic == "spectral_energy"].sort_values("frequency")
            density = chosen[chosen.statistic == "spectral_density"].sort_values("frequency")
            x, width = energy.frequency.to_numpy(), 2 / len(energy)
            panel.bar(x, density.value, width, color="#d9d9d9", label="density of eigenvalues")
            panel.fill_between(
                x, energy.low, energy.high, step="mid", color=COLOURS[0], alpha=0.25, linewidth=0
            )
            for column, label, style in (
                ("value", "energy of the features", {"color": COLOURS[0]}),
                ("null_permuted", "permuted null", {"color": COLOURS[1], "linestyle": ":"}),
                ("null_uniform", "uniform null", {"color": GREY, "linewidth": 1, "linestyle": "--"}),
            ):
                panel.step(x, energy[column], where="mid", label=label, **style)
            panel.set_yscale("symlog", linthresh=0.01)  # most is at 0 and 1
            panel.set_ylim(0, 1)
            panel.set_yticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"])
            panel.set_yticks([], minor=True)
            panel.set_title(f"layer {number(layer)}")
            panel.set_xlabel("eigenvalue of I − S")
            if k % _COLUMNS == 0:
                panel.set_ylabel("fraction (symlog)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    reading = (
        "Energy of the features by frequency (eigenvalues of I − S), as a fraction of the whole: mean over "
        f"heads and examples with {_INTERVALS}, under both null models. Grey: density of eigenvalues."
    )
    save(figure, stem, f"{subject}\n{reading}")


def _grid(count: int, height: float, **options):
    """A figure with ``count`` panels of this height in rows of four.

    Raises:
        ValueError: there is nothing to plot.
    """
    if not count:
        raise ValueError("the table holds no number to plot")
    rows, columns = -(-count // _COLUMNS), min(count, _COLUMNS)
    figure = new_figure(PAGE, rows * height + 0.3)
    panels = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for panel in panels[count:]:
        panel.set_axis_off()
    return figure, panels[:count]


def _name(statistic: str, labels: str) -> str:
    return textwrap.fill(NAMES.get(statistic, statistic), 24) + (f"\nby {labels}" if labels else "")


def _numbered(set_ticks, count: int, names) -> None:
    """At most about a dozen ticks."""
    step = -(-count // 12)
    set_ticks(range(0, count, step), [str(name) for name in list(names)[::step]])
