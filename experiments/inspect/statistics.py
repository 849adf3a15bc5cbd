"""The statistics of ``attngraph heterophily``: measured, as text on screen, and as figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from attngraph.analysis.heterophily import Heterophily
from attngraph.analysis.plots.heterophily import (
    CURVES,
    DIFFERENCE,
    curves,
    entries,
    heat_maps,
    is_difference,
    number,
    spectra,
    stacks,
)
from attngraph.experiments.inspect.labels import Labeller, examples_of
from attngraph.experiments.inspect.regions import Regions
from attngraph.experiments.inspect.source import Source

BEFORE, AFTER = "before", "after"  # training
LABELLED = ("edge", "adjusted", "label_informativeness", "aggregation")
PLAIN = (
    "generalised_edge",
    "dirichlet_normalised",
    "entropy",
    "effective_degree",
    "neighbour_cka",
    "mmd",
    "probe_auc",
)
UNDEFINED = "undefined in every graph"
STREAMED = "graphs of this size are streamed: without pGNN's closed form and regions, which need all weights"
CLOSED_FORM = ("closed_form_r", "closed_form_variation", "lengths_variation", "attention_variation")
REGIONS = ("contrast", "rotation_change", "distance_auc", "distractor_mass", "queries_per_value")


def measure(
    source: Source, labeller: Labeller, regions: Regions, statistics: Heterophily, state: str = ""
) -> None:
    """Add the graphs of a source to the statistics: M, and M̄ if the layer has an adapter. The ``state`` of
    training is part of the weights' names."""
    suffix = f" {state}" if state else ""
    for batch, graphs in source.graphs(f"measuring{suffix}"):
        for name, graph in graphs.items():
            labels, examples = labeller(batch, name, graph), examples_of(batch, graph)
            relevant = {} if source.stream else regions(batch, name, graph)
            statistics.add(name, graph, labels, f"M{suffix}", relevant, examples)
            reweighted = source.reweighted(name, graph)
            if reweighted is not None:
                statistics.add(name, reweighted, labels, f"M̄{suffix}", relevant, examples)


def differences(states: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The paired differences of the table: the effect of the adapter on M, and that of training."""
    pairs = {f"M̄ − M {state}".rstrip(): (f"M̄ {state}".rstrip(), f"M {state}".rstrip()) for state in states}
    if {BEFORE, AFTER} <= set(states):
        for weights in ("M", "M̄"):
            pairs[f"{weights} {AFTER} − {BEFORE}"] = (f"{weights} {AFTER}", f"{weights} {BEFORE}")
    return pairs


def screen(table: pd.DataFrame) -> str:
    """The table as text, a paragraph for each stack of layers: means over heads and examples, the null in
    brackets, and a star if the interval of the difference excludes 0. For differences between two kinds of
    weights: their values, with a star if the values' intervals exclude 0.
    """
    mean = table[table["head"] == "all"]
    mean = mean.assign(cell=[_cell(line) for line in mean.itertuples()])
    head = (
        "mean over heads and examples (null); * = the interval of the difference excludes 0; layers by number"
    )
    if is_difference(mean).any():
        head += "\nlines with −: paired differences, without null; * = their interval excludes 0"
    paragraphs = [head]
    for series, layers in stacks(mean).items():
        lines = mean[mean.layer.isin(layers)].assign(layer=lambda lines: lines.layer.map(number))
        paragraphs.append("\n".join([series, *_tables(lines), *_without_finding(lines)]))
    return "\n\n".join(paragraphs)


def draw_figures(table: pd.DataFrame, spectrum: pd.DataFrame, title: str, out: Path) -> list[str]:
    """Save all figures in a folder; returns the names of the PNG files."""
    written = []

    def draw(function: Callable[..., None], data: pd.DataFrame, name: str, about: str) -> None:
        function(data, out / name, f"{title}, {about}.")
        written.append(f"{name}.png")

    for series, layers in stacks(table).items():
        chosen = table[table.layer.isin(layers)]
        slug = series.replace(".*", "").replace("*", "").replace("#", "-").replace(".", "-")
        if not entries(chosen):
            continue
        paired = chosen[is_difference(chosen)]
        chosen = chosen.drop(paired.index)
        if entries(chosen, CURVES, "excess"):
            draw(curves, chosen, f"curves-{slug}", series)
        if entries(paired, CURVES):
            draw(curves, paired, f"differences-{slug}", series)
        for weights, part in chosen.groupby("weights", sort=False):
            name = slug + ("" if weights == "M" else "-" + weights.replace("M̄", "Mbar").replace(" ", "-"))
            if entries(part, column="excess"):
                draw(heat_maps, part, f"heads-{name}", f"{series}, {weights}")
            waves = spectrum[spectrum.layer.isin(layers) & (spectrum.weights == weights)]
            if len(waves):
                draw(spectra, waves, f"spectra-{name}", f"{series}, {weights}")
    return written


def _tables(lines: pd.DataFrame) -> list[str]:
    """Tables of statistics with labels, of those without labels, of pGNN's closed form and of regions."""
    by_label, tables = ["layer", "weights", "labels"], []
    plain = by_label[:2]
    for statistics, keys in (
        (LABELLED, by_label),
        (PLAIN, plain),
        (CLOSED_FORM, plain),
        (REGIONS, by_label),
    ):
        chosen = lines[lines.statistic.isin(statistics) & (lines.cell != "")]
        if len(chosen):
            order = pd.MultiIndex.from_frame(chosen[keys].drop_duplicates())
            wide = chosen.pivot(index=keys, columns="statistic", values="cell")
            wide = wide.reindex(order).reindex(columns=list(statistics))
            tables.append(wide.astype(object).fillna("").reset_index().to_string(index=False))
    return tables


def _without_finding(lines: pd.DataFrame) -> list[str]:
    """A line for each kind of labels without any number, with the reason."""
    notes = []
    for labels, part in lines[lines.labels != ""].groupby("labels"):
        if not part.examples.any():
            why = {text.partition("excluded: ")[2] for note in part.note for text in note.split("; ")}
            notes.append(f"no finding by {labels}: {', '.join(sorted(why - {''})) or UNDEFINED}")
    return notes


def _cell(line) -> str:
    if pd.isna(line.value):
        return ""
    if DIFFERENCE in line.weights:
        return f"{line.value:+.3f}{'*' if line.low > 0 or line.high < 0 else ' '}"
    null = line.null_uniform if pd.isna(line.null_permuted) else line.null_permuted
    if pd.isna(null):
        return f"{line.value:.3f}"
    star = "*" if line.excess_low > 0 or line.excess_high < 0 else " "
    return f"{line.value:.3f}{star}({null:.3f})"
