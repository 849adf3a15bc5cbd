"""Figures show the table's numbers and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from attngraph.analysis.heterophily import Heterophily, Settings
from attngraph.analysis.labels import Labels
from attngraph.analysis.plots import heterophily as plots
from tests.analysis.example_graphs import random_graph


@pytest.fixture(scope="module")
def tables():
    measured = Heterophily(Settings(bins=5, replicates=10))
    for seed in range(3):
        graph = random_graph(seed, n=6, m=6)
        measured.add(
            f"decoder.{seed}.cross",
            graph,
            {"one": Labels.same(np.zeros((2, 6), int)), "two": Labels.same([[0, 1] * 3] * 2)},
        )
    return measured.table(), measured.spectrum()


def test_heat_maps(tables, drawn, tmp_path):
    """Numbers, bold where the interval excludes 0; all panels have one scale."""
    table, _ = tables
    plots.heat_maps(table, tmp_path / "x", "subject")
    panels = {panel.get_title(loc="left"): panel for panel in drawn[0].axes}
    panel = panels["adjusted homophily\nby two"]
    adjusted = table[(table.statistic == "adjusted") & (table.labels == "two") & (table["head"] != "all")]
    expected = adjusted.pivot(index="layer", columns="head", values="excess")
    assert np.array_equal(panel.images[0].get_array(), expected.to_numpy(dtype=float))
    cells = adjusted.set_index(["layer", "head"])
    for text in panel.texts:
        head, layer = text.get_position()
        cell = cells.loc[(f"decoder.{layer}.cross", head)]
        shown = float(text.get_text().replace("−", "-"))
        assert shown == pytest.approx(cell.excess, abs=0.006)
        assert (text.get_fontweight() == "bold") == (cell.excess_low > 0 or cell.excess_high < 0)
    assert len(panel.texts) == len(cells)
    scales = {image.get_clim() for panel in panels.values() for image in panel.images}
    excess = table[table.statistic.isin(plots.HEADLINE) & (table["head"] != "all")].excess.abs().max()
    assert scales == {(-excess, excess)}


def test_curves(tables, drawn, tmp_path):
    """Effects with their intervals, on one axis with 0."""
    table, _ = tables
    plots.curves(table, tmp_path / "x", "subject")
    panels = {panel.get_title(loc="left"): panel for panel in drawn[0].axes}
    expected = table[(table.statistic == "generalised_edge") & (table["head"] == "all")]
    zero, curve = panels["generalised edge\nhomophily"].lines
    assert list(zero.get_ydata()) == [0, 0] and curve.get_ydata().tolist() == expected.excess.tolist()
    assert len({panel.get_ylim() for panel in panels.values()}) == 1 and "attention entropy" not in panels


def test_curves_of_differences(drawn, tmp_path):
    """One curve for each pair of weights: the values."""
    measured = Heterophily(Settings(replicates=10))
    for k in range(2):
        graph = random_graph(k, n=6, m=6)
        for weights, weighted in (("M", graph), ("M̄", replace(graph, weight=graph.weight.square()))):
            measured.add(f"decoder.{k}.cross", weighted, weights=weights)
    table = measured.table({"M̄ − M": ("M̄", "M")})
    differences = table[plots.is_difference(table)]
    assert set(differences.weights) == {"M̄ − M"}
    plots.curves(differences, tmp_path / "x", "subject")
    panel = next(one for one in drawn[0].axes if one.get_title(loc="left").startswith("generalised edge"))
    _, curve = panel.lines
    is_edge = (differences.statistic == "generalised_edge") & (differences["head"] == "all")
    assert curve.get_ydata().tolist() == differences[is_edge].value.tolist()


def test_spectra(tables, drawn, tmp_path):
    _, spectrum = tables
    plots.spectra(spectrum, tmp_path / "x", "subject")
    expected = spectrum[
        (spectrum.layer == "decoder.1.cross")
        & (spectrum["head"] == "all")
        & (spectrum.statistic == "spectral_energy")
    ]
    assert drawn[0].axes[1].lines[0].get_ydata().tolist() == expected.value.tolist()


def test_nothing_to_draw(tables, tmp_path):
    table, _ = tables
    with pytest.raises(ValueError, match="no number to plot"):
        plots.curves(table[table.labels == "one"], tmp_path / "none", "subject")
