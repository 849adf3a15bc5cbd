"""Measured numbers are those of the single functions; nulls are null; degenerate labels are marked."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from attngraph import AttentionGraph, AttentionScores
from attngraph.analysis.bipartite import Bipartite
from attngraph.analysis.closed_form import closed_form
from attngraph.analysis.contrast import Distances, Region, contrast, square_distances
from attngraph.analysis.energy import energies
from attngraph.analysis.entropy import entropy
from attngraph.analysis.heterophily import (
    COLUMNS,
    LABEL_STATISTICS,
    REGION_STATISTICS,
    STATISTICS,
    Heterophily,
    Settings,
    heterophily,
)
from attngraph.analysis.homophily import Mixing, adjusted, aggregation, label_informativeness, node_value
from attngraph.analysis.labels import Labels
from attngraph.analysis.nulls import uniform
from attngraph.analysis.sums import EdgeSums
from attngraph.streaming import heaviest
from tests.analysis.example_graphs import block_model, labels_for, line, random_graph


def test_numbers_are_those_of_the_functions():
    graphs = [random_graph(seed, n=8, m=9) for seed in range(3)]
    table = heterophily(graphs, lambda name, graph: {"x": labels_for(graph)}, Settings(p=1.25))
    assert list(table.columns) == list(COLUMNS) and set(table.statistic) == set(STATISTICS) - {
        "self_weight",
        *REGION_STATISTICS,
    }
    views = [Bipartite.of(graph) for graph in graphs]
    mixings = [Mixing.of(view, labels_for(graph).on(view)) for view, graph in zip(views, graphs)]
    evens = [uniform(view) for view in views]
    for name, parts in {
        "entropy": [entropy(EdgeSums.of(view)) for view in views],
        "cosine": [energies(view).cosine for view in views],
        "p_dirichlet_normalised": [energies(view, 1.25).p_dirichlet_normalised for view in views],
        "adjusted": [adjusted(mixing) for mixing in mixings],
        "node_value": [node_value(mixing) for mixing in mixings],
        "label_informativeness": [label_informativeness(mixing) for mixing in mixings],
        "aggregation": [aggregation(mixing) for mixing in mixings],
        **{
            name: [getattr(closed_form(graph, 1.25), field) for graph in graphs]
            for name, field in {
                "closed_form_r": "r",
                "closed_form_variation": "variation",
                "lengths_variation": "without_product",
                "attention_variation": "from_attention",
            }.items()
        },
    }.items():
        values = torch.cat(parts)  # six examples, three heads
        assert line(table, name).value == pytest.approx(values.mean().item()), name
        assert line(table, name, 1).value == pytest.approx(values[:, 1].mean().item()), name
        assert line(table, name, 1).examples == 6
        assert line(table, name).low < line(table, name).value < line(table, name).high
    assert line(table, "generalised_edge").null_uniform == pytest.approx(
        torch.cat([energies(x).generalised_edge for x in evens]).mean().item()
    )


@pytest.mark.parametrize("degree", ["sum", "mean"])
def test_numbers_of_regions_are_those_of_the_function(degree):
    graph = random_graph(b=6, n=8, m=9, causal=True)
    region = Region(torch.rand(6, 8, 9, generator=torch.Generator().manual_seed(0)) < 0.3)
    measured = Heterophily(Settings(degree=degree))
    measured.add("layer", graph, regions={"x": region})
    table = measured.table()
    found = contrast(graph, region, degree)
    even = replace(graph, weight=uniform(Bipartite.of(graph)).weight)
    flat = contrast(even, region, degree)
    names = dict(
        contrast="contrast", contrast_raw="raw", distance_auc="auc", distractor_mass="distractor_mass"
    )
    for name, field in names.items():
        one = line(table, name, labels="x")
        assert one.value == pytest.approx(getattr(found, field).mean().item()), name
        assert one.null_uniform == pytest.approx(getattr(flat, field).mean().item()), name
        assert one.low < one.value < one.high and one.null_permuted != one.value and one.examples == 6
    turned = Distances(square_distances(graph, degree, rotated=0)).contrast(graph, region).contrast
    change = line(table, "rotation_change", labels="x").value
    assert change == pytest.approx((turned - found.contrast).mean().item()) and abs(change) > 1e-3
    ratio = line(table, "queries_per_value", labels="x")
    assert ratio.value == pytest.approx((5 * 8 / 9 + 7 / 7) / 6)  # the last example has padding
    with pytest.raises(ValueError, match="only attention graphs have regions"):
        Heterophily().add("layer", Bipartite.of(graph), regions={"x": region})


def test_planted_regions_are_found_and_others_are_not():
    """Relevant values lie at their query; of the null's regions, distances say nothing."""
    draw = torch.Generator().manual_seed(0)
    b, n, m, d = 24, 6, 16, 8
    query = torch.randn(b, 1, n, d, generator=draw)
    relevant = torch.zeros(b, n, m, dtype=torch.bool)
    relevant[:, :, 5:8] = True
    value = torch.randn(b, 1, m, d, generator=draw)
    query = query[:, :, :1].expand(b, 1, n, d)  # one topic for each example
    weight = torch.full((b, 1, n, m), 1 / m)
    scale = (n / m) ** 0.5  # of the values' degrees
    planted = torch.where(relevant[:, :1, :, None], query[:, :, :1] * scale, value * scale)
    for features, finds in ((planted, True), (value * scale, False)):
        measured = Heterophily(Settings(permutations=8))
        graph = AttentionGraph(query, features, weight, kind="cross")
        measured.add("layer", graph, regions={"x": Region(relevant)})
        found = line(measured.table(), "contrast")
        assert (found.excess_low > 0.8) == finds and abs(found.null_permuted) < 0.2
        assert finds or found.excess_low < 0 < found.excess_high


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
    others = ("cosine", "generalised_edge", "dirichlet_normalised", "mmd", "probe_auc")
    for statistic in (*LABEL_STATISTICS, *others):
        row = line(table, statistic)
        assert row.excess_low <= 0 <= row.excess_high, statistic
        assert row.excess == pytest.approx(row.value - row.null_permuted, abs=1e-9), statistic
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
        row = line(table, statistic)
        assert (row.excess_low > 0) if sign > 0 else (row.excess_high < 0), statistic
    for statistic in ("label_informativeness", "aggregation", "neighbourhood_contrast"):
        assert line(table, statistic).excess_low > 0, statistic  # these ask for any dependence
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
    assert line(table, "edge").note == "6 graphs excluded: no edges between labelled nodes"


@pytest.mark.parametrize("view", ["to_data", "to_hetero"])
def test_an_exported_graph_has_the_same_table(view):
    """Label statistics of the export of self-attention exclude the diagonal, too."""
    graph = random_graph(b=1, h=1, kind="self")
    labels = {"x": labels_for(graph)}
    pd.testing.assert_frame_equal(heterophily(getattr(graph, view)(), labels), heterophily(graph, labels))


def test_degenerate_labels_are_marked():
    graph = random_graph(n=5, m=7)
    roles = Labels(torch.zeros(2, 5, dtype=torch.long), torch.ones(2, 7, dtype=torch.long))
    one = Labels(torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, 7, dtype=torch.long))
    partly = Labels(
        torch.arange(5).expand(2, 5) % 2 * torch.tensor([[1], [0]]), torch.arange(7).expand(2, 7) % 2
    )
    apart = Labels(torch.arange(5).expand(2, 5) % 2, torch.arange(7).expand(2, 7))
    table = heterophily(graph, {"roles": roles, "one": one, "partly": partly, "apart": apart})
    row = line(table, "label_informativeness", labels="apart")
    assert row.note == "6 graphs excluded: all labels differ: a permutation changes nothing"
    assert np.isnan(row.value) and line(table, "edge", labels="apart").examples == 2
    for statistic in LABEL_STATISTICS:
        for labels, note in (
            ("roles", "6 graphs excluded: role labels"),
            ("one", "6 graphs excluded: one side has one class only"),
        ):
            row = line(table, statistic, labels=labels)
            assert np.isnan(
                row[["value", "low", "null_uniform", "null_permuted", "excess"]].astype(float)
            ).all()
            assert row.examples == 0 and row.note.startswith(note)
        row = line(table, statistic, labels="partly", head=0)
        assert row.examples == 1 and row.note == "1 graph excluded: one side has one class only"


def test_half_precision_and_float32_agree_with_float64():
    graph = random_graph(n=12, m=15)
    wide = heterophily(graph, {"x": labels_for(graph)})
    for dtype, relative in ((torch.float32, 1e-5), (torch.float16, 2e-2)):
        parts = {name: getattr(graph, name).to(dtype) for name in ("query", "value", "weight")}
        narrow = replace(graph, **parts, metric=graph.metric.float())
        narrow = heterophily(narrow, {"x": labels_for(graph)})
        assert np.allclose(wide.value, narrow.value, rtol=relative, atol=relative, equal_nan=True), dtype


def test_what_is_refused():
    wrong = dict(permutations=0, replicates=1, p=0.5, bins=4, level=1.0, points=2, degree="'max'")
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"{name} must .* got {value}"):
            Settings(**{name: value.strip("'") if name == "degree" else value})
    with pytest.raises(ValueError, match="graphs is empty"):
        heterophily([])
    scores = AttentionScores(*torch.randn(3, 1, 1, 4, 2), 1.0)
    some = heaviest(scores.graph(), 2)
    with pytest.raises(ValueError, match="only the heaviest edges of a stream"):
        heterophily(some)
    measured = Heterophily()
    measured.add("layer", random_graph())
    with pytest.raises(ValueError, match="layer: a layer must have the same labels"):
        measured.add("layer", random_graph(), {"x": labels_for(random_graph())})
