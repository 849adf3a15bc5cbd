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


def test_heat_maps(tables, drawn):
    table, _ = tables
    plots.heat_maps(table, "x.png", "title")
    panels = {panel.get_title(loc="left"): panel for panel in drawn[0].axes}
    shown = panels["adjusted homophily\nby two"].images[0].get_array()
    adjusted = table[(table.statistic == "adjusted") & (table.labels == "two") & (table["head"] != "all")]
    expected = adjusted.pivot(index="layer", columns="head", values="excess")
    assert np.array_equal(shown, expected.to_numpy(dtype=float))


def test_curves(tables, drawn):
    table, _ = tables
    plots.curves(table, "x.png", "title")
    panel = next(panel for panel in drawn[0].axes if panel.get_title(loc="left") == "attention entropy")
    expected = table[(table.statistic == "entropy") & (table["head"] == "all")]
    assert panel.lines[0].get_ydata().tolist() == expected.value.tolist()
    assert any(np.array_equal(line.get_ydata(), expected.null_uniform) for line in panel.lines)


def test_curves_of_differences(drawn):
    """One curve for each, beside 0, without nulls."""
    measured = Heterophily(Settings(replicates=10))
    for k in range(2):
        graph = random_graph(k, n=6, m=6)
        for weights, weighted in (("M", graph), ("M̄", replace(graph, weight=graph.weight.square()))):
            measured.add(f"decoder.{k}.cross", weighted, weights=weights)
    table = measured.table({"M̄ − M": ("M̄", "M")})
    differences = table[plots.is_difference(table)]
    assert set(differences.weights) == {"M̄ − M"}
    plots.curves(differences, "x.png", "title")
    panel = next(panel for panel in drawn[0].axes if panel.get_title(loc="left") == "attention entropy")
    zero, curve, *more = panel.lines
    expected = differences[(differences.statistic == "entropy") & (differences["head"] == "all")]
    assert (
        list(zero.get_ydata()) == [0, 0]
        and curve.get_ydata().tolist() == expected.value.tolist()
        and not more
    )


def test_spectra(tables, drawn):
    _, spectrum = tables
    plots.spectra(spectrum, "x.png", "title")
    expected = spectrum[
        (spectrum.layer == "decoder.1.cross")
        & (spectrum["head"] == "all")
        & (spectrum.statistic == "spectral_energy")
    ]
    assert drawn[0].axes[1].lines[0].get_ydata().tolist() == expected.value.tolist()


def test_files(tables, tmp_path):
    table, spectrum = tables
    few = table[(table.statistic == "adjusted") & (table.layer == "decoder.0.cross")]
    for draw, data in ((plots.heat_maps, few), (plots.curves, few), (plots.spectra, spectrum)):
        draw(data, tmp_path / "figure.png", "title")
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no number to draw"):
        plots.curves(table[table.labels == "one"], tmp_path / "none.png", "title")
