"""Points against distances that are computed after W_o, node by node; which nodes are kept, and under which
labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from attngraph import AttentionGraph, capture
from attngraph.analysis.points import COLUMNS, Points, output_matrices
from attngraph.reading.outputs import head_metric
from tests.attngraph.reading.zoo import FAMILIES


def graph_of(b=2, h=3, n=4, m=5, d=6, output=None, seed=0, **more):
    draw = torch.Generator().manual_seed(seed)
    query, value = (torch.randn(b, h, nodes, d, generator=draw) for nodes in (n, m))
    weight = torch.rand(b, h, n, m, generator=draw)
    metric = None if output is None else head_metric(output, h)
    return AttentionGraph(query, value, weight, metric=metric, **more)


def names(b, first=0):
    return [f"picture {first + k}" for k in range(b)]


def clouds_of(graph, valid=None, **options):
    points = Points(**options)
    points.add("layer", graph, names(graph.shape[0]), query_valid=valid, value_valid=valid)
    return points.clouds()


def projected(graph, output, nodes, head=None) -> np.ndarray:
    """The nodes' V-hat by definition: their heads' features side by side times W_o (of one head: its
    slice)."""
    found = []
    for row in nodes.itertuples():
        side = graph.query if row.role == "query" else graph.value
        x = side[int(row.example.split()[1]), :, row.node].double()
        weight, d = output.weight.double(), x.shape[1]
        found.append(weight @ x.flatten() if head is None else weight[:, head * d : (head + 1) * d] @ x[head])
    return torch.stack(found).detach().numpy()


def distances(points):
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


@pytest.fixture
def output():
    torch.manual_seed(1)
    return nn.Linear(18, 20)


def test_distances_of_a_whole_layer_are_those_after_w_o(output):
    graph = graph_of(output=output)
    (cloud,) = clouds_of(graph, outputs={"layer": output.weight.T.detach()})
    assert list(cloud.nodes.columns) == COLUMNS and cloud.projected
    assert len(cloud.nodes) == 2 * (4 + 5) and set(cloud.nodes["head"]) == {"all"}
    want = distances(projected(graph, output, cloud.nodes))
    np.testing.assert_allclose(distances(cloud.features), want, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="output_matrices"):
        clouds_of(graph)


def test_distances_of_heads_are_those_after_their_slices(output):
    graph = graph_of(output=output)
    clouds, together = clouds_of(graph, heads=[0, 1, 2]), 0
    assert [cloud.nodes["head"].unique().tolist() for cloud in clouds] == [[0], [1], [2]]
    for head, cloud in enumerate(clouds):
        want = distances(projected(graph, output, cloud.nodes, head))
        assert cloud.features.shape[1] == 6
        np.testing.assert_allclose(distances(cloud.features), want, rtol=1e-4, atol=1e-5)
        together = together + want**2
    whole = distances(projected(graph, output, cloud.nodes))
    ratio = np.sqrt(together) / (whole + np.eye(len(whole)))
    assert np.abs(ratio - 1).max() > 0.1  # why a layer needs W_o
    one = graph_of(h=1, output=nn.Linear(6, 20))  # one head is its own layer
    (layer,), (head,) = clouds_of(one), clouds_of(one, heads=[0])
    np.testing.assert_array_equal(layer.features, head.features)


def test_without_a_projection_distances_are_those_before_it():
    graph = graph_of()
    (whole,), heads = clouds_of(graph), clouds_of(graph, heads=[0, 1, 2])
    assert not any(cloud.projected for cloud in (whole, *heads))
    np.testing.assert_array_equal(whole.features, np.concatenate([cloud.features for cloud in heads], 1))
    first, *_ = heads
    for row, feature in zip(first.nodes.itertuples(), first.features):
        side = graph.query if row.role == "query" else graph.value
        np.testing.assert_array_equal(feature, side[int(row.example[-1]), 0, row.node])


def test_padding_is_left_out_and_labels_stay_with_their_nodes():
    rows = torch.tensor([[True, True, True, False], [True, False, False, False]])
    causal = torch.ones(4, 4, dtype=torch.bool).tril() & rows[:, None] & rows[:, :, None]
    image = torch.tensor([[True, False, False, False]] * 2)
    sides = dict(kind="self", query_modality="text", value_modality=image)
    graph = graph_of(h=1, m=4, query_mask=rows, value_mask=causal, causal=True, **sides)
    tokens = [["[CLS]", "red", "star", "[PAD]"], ["[CLS]", "[PAD]", "[PAD]", "[PAD]"]]
    points = Points()
    points.add("layer", graph, names(2), {"token": tokens}, {"token": tokens, "class": np.char.upper(tokens)})
    nodes = points.clouds()[0].nodes
    assert len(nodes) == 2 * 4 and "[PAD]" not in set(nodes.token)
    for row in nodes.itertuples():
        assert row.token == tokens[int(row.example[-1])][row.node] and row.kind == "self"
        assert row.modality == ("image" if row.role == "value" and row.node == 0 else "text")
    values = nodes[nodes.role == "value"]
    assert (values["class"] == values.token.str.upper()).all()
    assert (nodes[nodes.role == "query"]["class"] == "").all()


def test_padding_that_no_mask_tells_takes_no_room():
    valid = torch.zeros(2, 90, dtype=torch.bool)
    valid[:, 60:80] = True
    nodes = clouds_of(graph_of(h=1, n=90, m=90), valid, most=40)[0].nodes
    assert nodes.groupby(["example", "role"]).size().eq(10).all() and set(nodes.node) <= set(range(20))


@pytest.mark.parametrize(
    "most, sizes, queries, values",
    [
        (60, dict(b=12, n=3, m=50), 2, 2),  # 12 x (2 + 2); 3 would be 72
        (100, dict(b=2, n=3, m=90), 3, 47),  # a short side leaves its room to the other
        (4, dict(b=2, n=3, m=9), 1, 1),
    ],
)
def test_points_are_thinned_evenly_over_examples_and_roles(most, sizes, queries, values):
    nodes = clouds_of(graph_of(h=1, **sizes), most=most)[0].nodes
    counts = nodes.groupby(["example", "role"]).size()
    assert counts.loc[:, "query"].eq(queries).all() and counts.loc[:, "value"].eq(values).all()
    assert len(counts) == 2 * sizes["b"] and not nodes.duplicated(["example", "role", "node"]).any()


def test_the_choice_depends_on_the_seed_and_the_nodes_alone():
    def chosen(seed, features=0, heads=None):
        nodes = clouds_of(graph_of(h=1, m=40, seed=features), most=20, seed=seed, heads=heads)[0].nodes
        return list(zip(nodes.role, nodes.example, nodes.node))

    assert chosen(0) == chosen(0, features=1) == chosen(0, heads=[0]) != chosen(1)
    nodes = clouds_of(graph_of(h=1, n=90, m=90), most=40)[0].nodes
    assert len(set(nodes.groupby(["example", "role"]).node.agg(frozenset))) == 4  # each in its own way


def test_of_more_examples_than_points_each_point_is_another():
    graph = graph_of(b=12, h=1)
    (cloud,) = clouds_of(graph, most=20)
    assert len(cloud.nodes) == 20 and not cloud.nodes.duplicated(["example", "role"]).any()
    for row, feature in zip(cloud.nodes.itertuples(), cloud.features):
        side = graph.query if row.role == "query" else graph.value
        np.testing.assert_array_equal(feature, side[int(row.example.split()[1]), 0, row.node])


def test_thinning_on_the_way_and_batches_change_nothing():
    early, late, whole = Points(50, heads=[0, 1]), Points(10_000, heads=[0, 1]), Points(50, heads=[0, 1])
    graphs = [graph_of(b=1, h=2, n=10, m=10, seed=k) for k in range(12)]
    for k, graph in enumerate(graphs):
        for points in (early, late):
            points.add("layer", graph, names(1, k))
        assert sum(map(len, early._layers["layer"].rows)) <= 100
    late.most = 50
    parts = {name: torch.cat([getattr(x, name) for x in graphs]) for name in ("query", "value", "weight")}
    whole.add("layer", replace(graphs[0], **parts), names(12))
    for points in (late, whole):
        for single, other in zip(early.clouds(), points.clouds(), strict=True):
            pd.testing.assert_frame_equal(single.nodes, other.nodes)
            np.testing.assert_array_equal(single.features, other.features)


def test_a_model_whose_layers_have_projections():
    model, inputs = FAMILIES["bert"].model(), FAMILIES["bert"].inputs()
    outputs, graphs = output_matrices(model), capture(model, inputs)
    assert list(outputs) == list(graphs)
    points = Points(outputs=outputs)
    for name, graph in graphs.items():
        points.add(name, graph, names(2))
    clouds = points.clouds()
    assert len(clouds) == 2 and all(cloud.projected and len(cloud.nodes) == 2 * 12 for cloud in clouds)
    dense, graph = model.encoder.layer[0].attention.output.dense, graphs["encoder.layer.0.attention.self"]
    want = projected(graph, dense, clouds[0].nodes)
    np.testing.assert_allclose(clouds[0].features, want, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused_and_leaves_nothing_behind():
    points, graph = Points(heads=[0]), graph_of(h=1)
    with pytest.raises(ValueError, match="most"):
        Points(most=0)
    with pytest.raises(ValueError, match="heads"):
        Points(heads=[0, 3]).add("layer", graph_of(), names(2))
    with pytest.raises(ValueError, match="examples"):
        points.add("layer", graph, ["one"])
    with pytest.raises(ValueError, match="query_labels"):
        points.add("layer", graph, names(2), {"token": [["a"]]})
    with pytest.raises(ValueError, match="value_labels"):
        points.add("layer", graph, names(2), value_labels={"class": [["x"] * 4] * 2})
    assert not points.clouds()
    points.add("layer", graph, names(2))
    assert len(points.clouds()[0].nodes) == 2 * (4 + 5)


def test_a_side_without_nodes_leaves_all_room_to_the_other():
    points = Points(most=7)
    points.add("layer", graph_of(b=1, h=1, m=7), names(1), query_valid=torch.zeros(1, 4, dtype=torch.bool))
    points._layers["layer"].thin(7)
    assert points.clouds()[0].nodes.role.tolist() == ["value"] * 7
