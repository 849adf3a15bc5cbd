"""The one-pass table: batches do not matter, differences are paired, intervals cover."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import pad

from attngraph.analysis.bipartite import Bipartite
from attngraph.analysis.bootstrap import Means
from attngraph.analysis.entropy import entropy
from attngraph.analysis.heterophily import (
    CLOSED_FORM_STATISTICS,
    WEIGHT_STATISTICS,
    Heterophily,
    Settings,
    heterophily,
)
from attngraph.analysis.labels import Labels
from attngraph.analysis.sums import EdgeSums
from tests.analysis.example_graphs import labels_for, line, random_graph


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_streaming_equals_one_batch(kind):
    """Every number of the table and of the spectra, though batches and the padding of an example differ."""
    graph = Bipartite.of(random_graph(b=5, n=9, m=9, padding=False, kind=kind, causal=True))
    parts = [
        replace(graph, **{name: getattr(graph, name)[k] for name in ("weight", "visible", "query", "value")})
        for k in (slice(0, 1), slice(1, 3), slice(3, 5))
    ]
    wide = {"query": (0, 0, 2, 1), "value": (0, 0, 2, 1), "weight": (2, 1, 2, 1), "visible": (2, 1, 2, 1)}
    parts[1] = replace(parts[1], **{name: pad(getattr(parts[1], name), by) for name, by in wide.items()})
    y, z = torch.arange(9).expand(5, 9) % 3, torch.arange(9).expand(5, 9) % (3 if kind == "self" else 2)
    labels = [Labels(y[k], z[k]) for k in (slice(0, 1), slice(1, 3), slice(3, 5))]
    labels[1] = Labels(pad(y[1:3], (2, 1)), pad(z[1:3], (2, 1)))
    whole, split = Heterophily(Settings(bins=5, points=4)), Heterophily(Settings(bins=5, points=4))
    whole.add("layer", graph, {"x": Labels(y, z)})
    for part, classes in zip(parts, labels):
        split.add("layer", part, {"x": classes})
    pd.testing.assert_frame_equal(whole.table(), split.table(), rtol=1e-6, atol=1e-8)
    pd.testing.assert_frame_equal(whole.spectrum(), split.spectrum(), rtol=1e-6, atol=1e-8)


def test_graphs_of_record_are_those_of_a_layer():
    first, second = random_graph(), random_graph(seed=1)
    expected = heterophily([{"layer": first}, {"layer": second}])
    pd.testing.assert_frame_equal(heterophily({"layer": [first, second]}), expected)


def test_layers_have_their_own_permutations_and_kinds_of_weights_the_same():
    measured, graph = Heterophily(), random_graph(n=8, m=9)
    for name, weights in (("one", "M"), ("other", "M"), ("one", "again")):
        measured.add(name, graph, {"x": labels_for(graph)}, weights)
    table = measured.table()
    for statistic in ("adjusted", "cosine", "mmd"):
        one, other, again = (
            line(table, statistic, layer=layer, weights=weights).null_permuted
            for layer, weights in (("one", "M"), ("other", "M"), ("one", "again"))
        )
        assert one == again and one != other, statistic


def test_paired_differences():
    """A difference has the numbers of the differences example by example; where weights are the same it is
    0."""
    measured, graph = Heterophily(), random_graph(b=12, n=8, m=9, padding=False)
    sharp = replace(graph, weight=graph.weight.square() / graph.weight.square().sum(-1, keepdim=True))
    same = replace(graph, weight=graph.weight * (1 + 1e-9))
    for weights, weighted in (("M", graph), ("M̄", sharp), ("same", same)):
        measured.add("layer", weighted, {"x": labels_for(graph)}, weights)
    measured.add("bare", graph)
    table = measured.table({"M̄ − M": ("M̄", "M"), "same − M": ("same", "M")})
    assert set(table[table.weights == "M̄ − M"].layer) == {"layer"}
    means = Means((1,))
    one, other = (entropy(EdgeSums.of(Bipartite.of(x))) for x in (sharp, graph))
    means.add((one - other)[:, :1].numpy())
    row = line(table, "entropy", 0, weights="M̄ − M")
    assert [row.value, row.low, row.high] == pytest.approx(
        [means.mean()[0], *(end[0] for end in means.interval())]
    )
    assert row.examples == 12 and row.note == "" and row.high < 0
    two = [line(table, "entropy", 0, layer="layer", weights=weights) for weights in ("M̄", "M")]
    assert row.high - row.low < (two[0].high - two[0].low) + (two[1].high - two[1].low)
    for column in ("value", "null_uniform", "excess"):
        assert row[column] == pytest.approx(two[0][column] - two[1][column])
    same = table[table.weights == "same − M"]
    assert (same[["value", "low", "high", "excess", "excess_low", "excess_high"]].fillna(0) == 0).all(
        axis=None
    )


def test_intervals_cover_with_few_examples():
    """Random weights, features and labels in 16 examples, 100 times (heads of their own): about one excess in
    twenty leaves out 0 (with plain percentiles 9 %)."""
    graph = random_graph(3, b=16, h=100, n=8, m=8, padding=False)
    draw = torch.Generator().manual_seed(5)
    y, z = (torch.randint(0, 3, (16, 100, 8), generator=draw) for _ in range(2))
    table = heterophily(graph, {"x": Labels(y, z)}, Settings(replicates=400))
    table = table[
        (table["head"] != "all") & ~table.statistic.isin([*WEIGHT_STATISTICS, *CLOSED_FORM_STATISTICS])
    ]
    share = ((table.excess_low > 0) | (table.excess_high < 0)).groupby(table.statistic).mean()
    assert share.max() < 0.12 and share.mean() == pytest.approx(0.05, abs=0.02)


def test_windows_of_an_image_are_one_example():
    """Six graphs of three examples have the interval of their three means, in one batch or in two."""
    graph = Bipartite.of(random_graph(b=6, n=9, m=9, padding=False))

    def part(k: slice) -> Bipartite:
        return replace(graph, **{x: getattr(graph, x)[k] for x in ("weight", "visible", "query", "value")})

    whole, split = Heterophily(), Heterophily()
    whole.add("layer", graph, examples=3)
    split.add("layer", part(slice(0, 4)), examples=2)
    split.add("layer", part(slice(4, 6)), examples=1)
    table = whole.table()
    pd.testing.assert_frame_equal(split.table(), table, rtol=1e-6, atol=1e-8)
    assert set(table.examples) == {3}
    alone = [line(heterophily(part(slice(k, k + 1))), "entropy").value for k in range(6)]
    means = Means(())
    means.add(np.reshape(alone, (3, 2)).mean(1))
    found = line(table, "entropy")[["value", "low", "high"]].to_numpy(float)
    np.testing.assert_allclose(found, [means.mean(), *means.interval()], rtol=1e-6)
    with pytest.raises(ValueError, match="layer: 6 graphs cannot be the same number of each of 4 examples"):
        Heterophily().add("layer", graph, examples=4)


def test_spectrum():
    measured, fine = Heterophily(Settings(bins=5)), Heterophily(Settings(bins=101, replicates=2))
    measured.add("layer", random_graph())
    fine.add("layer", random_graph())
    table, spectrum = measured.table(), measured.spectrum()
    assert not table.statistic.str.startswith("spectral").any() and "frequency" in spectrum
    for statistic in ("spectral_energy", "spectral_density"):
        row = spectrum[(spectrum.statistic == statistic) & (spectrum["head"] == "all")]
        assert row.value.sum() == pytest.approx(1) and row.frequency.tolist() == pytest.approx(
            [0.2, 0.6, 1, 1.4, 1.8]
        )
    spectrum = fine.spectrum()
    mean = (
        row := spectrum[(spectrum.statistic == "spectral_energy") & (spectrum["head"] == 0)]
    ).frequency @ row.value
    assert mean == pytest.approx(line(table, "dirichlet_normalised", 0).value, abs=1 / 101)  # half a bin
