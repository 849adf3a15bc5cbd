"""The one-pass table: its numbers are those of the single functions, its nulls are null, its intervals
cover."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import pad
from torch_geometric.data import Data

from analysis.bipartite import Bipartite
from analysis.bootstrap import Means
from analysis.energy import p_dirichlet_normalised
from analysis.entropy import entropy
from analysis.feature_homophily import aggregation, cosine, generalised_edge
from analysis.heterophily import (
    COLUMNS,
    LABEL_STATISTICS,
    STATISTICS,
    WEIGHT_STATISTICS,
    Heterophily,
    Settings,
    heterophily,
)
from analysis.homophily import adjusted, label_informativeness, node_value
from analysis.labels import Labels
from analysis.mixing import Mixing
from analysis.nulls import uniform
from attngraph import AttentionGraph
from tests.analysis.example_graphs import block_model, random_graph


def line(table, statistic: str, head="all", **more):
    chosen = table[(table.statistic == statistic) & (table["head"] == head)]
    for column, value in more.items():
        chosen = chosen[chosen[column] == value]
    assert len(chosen) == 1
    return chosen.iloc[0]


def labels_for(graph) -> Labels:
    b, _, n, m, _ = graph.shape
    return Labels((torch.arange(n) % 3).expand(b, n), (torch.arange(m) % 2).expand(b, m))


def test_numbers_are_those_of_the_functions():
    graphs = [random_graph(seed, n=8, m=9) for seed in range(3)]
    table = heterophily(graphs, lambda name, graph: {"x": labels_for(graph)}, Settings(p=1.25))
    assert list(table.columns) == list(COLUMNS) and set(table.statistic) == set(STATISTICS) - {"self_weight"}
    views = [Bipartite.of(graph) for graph in graphs]
    mixings = [Mixing(view, labels_for(graph).on(view)) for view, graph in zip(views, graphs)]
    evens = [uniform(view) for view in views]
    for name, parts in {
        "entropy": [entropy(view) for view in views],
        "cosine": [cosine(view) for view in views],
        "p_dirichlet_normalised": [p_dirichlet_normalised(view, 1.25) for view in views],
        "adjusted": [adjusted(mixing) for mixing in mixings],
        "node_value": [node_value(mixing) for mixing in mixings],
        "label_informativeness": [label_informativeness(mixing) for mixing in mixings],
        "aggregation": [aggregation(mixing) for mixing in mixings],
    }.items():
        values = torch.cat(parts)  # six examples, three heads
        assert line(table, name).value == pytest.approx(values.mean().item()), name
        assert line(table, name, 1).value == pytest.approx(values[:, 1].mean().item()), name
        assert (
            line(table, name, 1).examples == 6
            and line(table, name).low < line(table, name).value < line(table, name).high
        )
    assert line(table, "generalised_edge").null_uniform == pytest.approx(
        torch.cat([generalised_edge(x) for x in evens]).mean().item()
    )


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
    for part, one in zip(parts, labels):
        split.add("layer", part, {"x": one})
    pd.testing.assert_frame_equal(whole.table(), split.table(), rtol=1e-6, atol=1e-8)
    pd.testing.assert_frame_equal(whole.spectrum(), split.spectrum(), rtol=1e-6, atol=1e-8)


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
    for weights, one in (
        ("M", graph),
        ("M̄", sharp),
        ("same", replace(graph, weight=graph.weight * (1 + 1e-9))),
    ):
        measured.add("layer", one, {"x": labels_for(graph)}, weights)
    measured.add("bare", graph)
    table = measured.table({"M̄ − M": ("M̄", "M"), "same − M": ("same", "M")})
    assert set(table[table.weights == "M̄ − M"].layer) == {"layer"}
    means = Means((1,))
    means.add((entropy(Bipartite.of(sharp)) - entropy(Bipartite.of(graph)))[:, :1].numpy())
    found = line(table, "entropy", 0, weights="M̄ − M")
    assert [found.value, found.low, found.high] == pytest.approx(
        [means.mean()[0], *(end[0] for end in means.interval())]
    )
    assert found.examples == 12 and found.note == "" and found.high < 0
    two = [line(table, "entropy", 0, layer="layer", weights=weights) for weights in ("M̄", "M")]
    assert found.high - found.low < (two[0].high - two[0].low) + (two[1].high - two[1].low)
    for column in ("value", "null_uniform", "excess"):
        assert found[column] == pytest.approx(two[0][column] - two[1][column])
    same = table[table.weights == "same − M"]
    assert (same[["value", "low", "high", "excess", "excess_low", "excess_high"]].fillna(0) == 0).all(
        axis=None
    )


def test_intervals_cover_with_few_examples():
    """Random weights, features and labels in 16 examples, 200 times (heads of their own): about one excess in
    twenty leaves out 0 (with plain percentiles 9 %)."""
    graph = random_graph(3, b=16, h=200, n=8, m=8, padding=False)
    draw = torch.Generator().manual_seed(5)
    y, z = (torch.randint(0, 3, (16, 200, 8), generator=draw) for _ in range(2))
    table = heterophily(graph, {"x": Labels(y, z)}, Settings(replicates=400))
    table = table[(table["head"] != "all") & ~table.statistic.isin(WEIGHT_STATISTICS)]
    share = ((table.excess_low > 0) | (table.excess_high < 0)).groupby(table.statistic).mean()
    assert share.max() < 0.12 and share.mean() == pytest.approx(0.05, abs=0.02)


def test_rounding_is_no_finding():
    """Uniform attention in float32 prefers nothing; neither does what is left of a sum."""
    draw = torch.Generator().manual_seed(0)
    x, v = torch.randn(6, 2, 20, 8, generator=draw), torch.randn(6, 2, 30, 8, generator=draw)
    graph = AttentionGraph(x, v, torch.full((6, 2, 20, 30), 1 / 30), kind="cross")
    table = heterophily(
        graph, {"x": Labels(torch.arange(20).expand(6, 20) % 3, torch.arange(30).expand(6, 30) % 3)}
    )
    alike = table[
        table.statistic.isin(["generalised_edge", "adjusted", "label_informativeness", "edge", "entropy"])
    ]
    assert len(alike) == 15 and (alike[["excess", "excess_low", "excess_high"]] == 0).all(axis=None)


def test_labels_that_all_differ_are_marked():
    graph = random_graph(n=5, m=7, padding=False)
    table = heterophily(graph, {"x": Labels(torch.arange(5).expand(2, 5) % 2, torch.arange(7).expand(2, 7))})
    for statistic in ("label_informativeness", "aggregation", "neighbourhood_contrast"):
        found = line(table, statistic)
        assert (
            np.isnan(found.value)
            and found.note == "6 graphs left out: all labels differ: a permutation changes nothing"
        )
    assert line(table, "edge").examples == 2


@pytest.mark.parametrize("options", [{"kind": "self", "causal": True, "n": 16}, {"n": 15, "m": 20}])
def test_nothing_is_found_where_nothing_is(options):
    """Random weights, features and labels: excess intervals cover 0, and both nulls tell what masks alone
    do."""
    graph = random_graph(b=40, padding=False, **options)
    draw = torch.Generator().manual_seed(5)
    b, _, n, m, _ = graph.shape
    y, z = (torch.randint(0, 3, (b, nodes), generator=draw) for nodes in (n, m))
    table = heterophily(
        graph,
        {"x": Labels.same(y) if n == m else Labels(y, z)},
        Settings(level=0.999, permutations=4, replicates=1000),
    )
    for statistic in (
        *LABEL_STATISTICS,
        "cosine",
        "generalised_edge",
        "dirichlet_normalised",
        "mmd",
        "probe_auc",
    ):
        found = line(table, statistic)
        assert found.excess_low <= 0 <= found.excess_high, statistic
        assert found.excess == pytest.approx(found.value - found.null_permuted, abs=1e-9), statistic
    if options["n"] == 15:
        assert abs(line(table, "adjusted").null_uniform) < 1e-9


@pytest.mark.parametrize("agreement,sign", [(0.1, -1), (0.8, 1)])
def test_planted_homophily_is_found(agreement, sign):
    graphs, (y, *_), (z, *_) = zip(*(block_model(agreement, seed, n=60, m=48) for seed in range(8)))
    graph = AttentionGraph(
        *(torch.cat([getattr(graph, part) for graph in graphs]) for part in ("query", "value", "weight"))
    )
    table = heterophily(graph, {"class": Labels(y.expand(8, -1), z.expand(8, -1))})
    for statistic in ("edge", "adjusted", "node_query", "node_value", "generalised_edge", "cosine"):
        found = line(table, statistic)
        assert (found.excess_low > 0) if sign > 0 else (found.excess_high < 0), statistic
    for statistic in (
        "label_informativeness",
        "aggregation",
        "neighbourhood_contrast",
    ):  # these ask for any dependence
        assert line(table, statistic).excess_low > 0, statistic
    assert sign * (line(table, "dirichlet_normalised").excess) < 0


def test_diagonal_of_self_attention():
    """A token is always of its own class: with all weight on the diagonal there is no finding, only
    self_weight."""
    graph = random_graph(kind="self", n=6, padding=False)
    graph = AttentionGraph(
        graph.query, graph.value, torch.eye(6, dtype=torch.float64).expand(2, 3, 6, 6), kind="self"
    )
    table = heterophily(graph, {"x": Labels.same((torch.arange(6) % 2).expand(2, 6))})
    assert line(table, "self_weight").value == 1 and np.isnan(line(table, "edge").value)
    assert line(table, "edge").note == "6 graphs left out: no edges between labelled nodes"


def test_degenerate_labels_are_marked():
    graph = random_graph(n=5, m=7)
    roles = Labels(torch.zeros(2, 5, dtype=torch.long), torch.ones(2, 7, dtype=torch.long))
    one = Labels(torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, 7, dtype=torch.long))
    some = Labels(
        torch.arange(5).expand(2, 5) % 2 * torch.tensor([[1], [0]]), torch.arange(7).expand(2, 7) % 2
    )
    table = heterophily(graph, {"roles": roles, "one": one, "some": some})
    for statistic in LABEL_STATISTICS:
        for labels, note in (
            ("roles", "6 graphs left out: role labels"),
            ("one", "6 graphs left out: one side has one class only"),
        ):
            found = line(table, statistic, labels=labels)
            assert np.isnan(
                found[["value", "low", "null_uniform", "null_permuted", "excess"]].astype(float)
            ).all()
            assert found.examples == 0 and found.note.startswith(note)
        found = line(table, statistic, labels="some", head=0)
        assert found.examples == 1 and found.note == "1 graph left out: one side has one class only"


def test_spectrum():
    measured, fine = Heterophily(Settings(bins=5)), Heterophily(Settings(bins=2001))
    measured.add("layer", random_graph())
    fine.add("layer", random_graph())
    table, spectrum = measured.table(), measured.spectrum()
    assert not table.statistic.str.startswith("spectral").any() and "frequency" in spectrum
    for statistic in ("spectral_energy", "spectral_density"):
        found = spectrum[(spectrum.statistic == statistic) & (spectrum["head"] == "all")]
        assert found.value.sum() == pytest.approx(1) and found.frequency.tolist() == pytest.approx(
            [0.2, 0.6, 1, 1.4, 1.8]
        )
    spectrum = fine.spectrum()
    mean = (
        found := spectrum[(spectrum.statistic == "spectral_energy") & (spectrum["head"] == 0)]
    ).frequency @ found.value
    assert mean == pytest.approx(line(table, "dirichlet_normalised", 0).value, abs=1 / 2001)  # half a bin


def test_plain_pyg_graphs():
    y = torch.tensor([0, 0, 0, 0, 1])
    data = Data(edge_index=torch.tensor([[0, 1, 2, 3], [1, 2, 0, 4]]), num_nodes=5)
    table = heterophily(data, {"y": Labels.same(y)})
    assert line(table, "edge").value == pytest.approx(0.75)
    assert line(table, "class_insensitive").value == pytest.approx(0.2)
    assert line(table, "edge").note == "one example: no interval" and np.isnan(line(table, "edge").low)
    assert "cosine" not in set(table.statistic)  # no features


def test_settings_and_misuse():
    for wrong in (
        {"permutations": 0},
        {"replicates": 1},
        {"p": 0.5},
        {"bins": 4},
        {"level": 1.0},
        {"points": 2},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Settings(**wrong)
    with pytest.raises(ValueError, match="graphs is empty"):
        heterophily([])
    measured = Heterophily()
    measured.add("layer", random_graph())
    with pytest.raises(ValueError, match="layer: a layer must have the same labels"):
        measured.add("layer", random_graph(), {"x": labels_for(random_graph())})


def test_half_precision_and_float32_agree_with_float64():
    graph = random_graph(n=12, m=15)
    wide = heterophily(graph, {"x": labels_for(graph)})
    for dtype, relative in ((torch.float32, 1e-5), (torch.float16, 2e-2)):
        narrow = AttentionGraph(
            *(x.to(dtype) for x in (graph.query, graph.value, graph.weight)),
            graph.query_mask,
            graph.value_mask,
            metric=graph.metric.float(),
            kind="cross",
        )
        narrow = heterophily(narrow, {"x": labels_for(graph)})
        assert np.allclose(wide.value, narrow.value, rtol=relative, atol=relative, equal_nan=True), dtype
