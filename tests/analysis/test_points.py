"""Points against distances that are computed after W_o, node by node; which nodes are kept, and under which
labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from analysis import points as points_module
from analysis.points import COLUMNS, Points, output_matrices
from attngraph import AttentionGraph, capture
from attngraph.reading.outputs import head_metric


def graph_of(b=2, h=3, n=4, m=5, d=6, output=None, seed=0, **more):
    draw = torch.Generator().manual_seed(seed)
    query, value = (torch.randn(b, h, nodes, d, generator=draw) for nodes in (n, m))
    weight = torch.rand(b, h, n, m, generator=draw)
    metric = None if output is None else head_metric(output, h)
    return AttentionGraph(query, value, weight, metric=metric, **more)


def names(b):
    return [f"picture {k}" for k in range(b)]


def projected(graph, output, row, head=None):
    """A node's V-hat, as the definition says: its heads' features side by side times W_o (of one head: its
    slice)."""
    side = graph.query if row.role == "query" else graph.value
    x = side[int(row.example.split()[1]), :, row.node].double()
    weight = output.weight.double()
    if head is None:
        return weight @ x.flatten()
    d = x.shape[1]
    return weight[:, head * d : (head + 1) * d] @ x[head]


def distances(points):
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


@pytest.fixture
def output():
    torch.manual_seed(1)
    return nn.Linear(18, 20)


def test_distances_of_a_whole_layer_are_those_after_w_o(output):
    graph = graph_of(output=output)
    points = Points(outputs={"layer": output.weight.T.detach()})
    points.add("layer", graph, names(2))
    (cloud,) = points.clouds()
    assert list(cloud.nodes.columns) == COLUMNS and cloud.projected
    assert len(cloud.nodes) == 2 * (4 + 5) and set(cloud.nodes["head"]) == {"all"}
    want = torch.stack([projected(graph, output, row) for row in cloud.nodes.itertuples()]).detach().numpy()
    np.testing.assert_allclose(distances(cloud.features), distances(want), rtol=1e-4, atol=1e-5)


def test_distances_of_heads_are_those_after_their_slices(output):
    graph = graph_of(output=output)
    points = Points(heads=[0, 1, 2])
    points.add("layer", graph, names(2))
    clouds = points.clouds()
    assert [cloud.nodes["head"].unique().tolist() for cloud in clouds] == [[0], [1], [2]]
    together = 0
    for head, cloud in enumerate(clouds):
        assert cloud.features.shape[1] == 6
        want = (
            torch.stack([projected(graph, output, row, head) for row in cloud.nodes.itertuples()])
            .detach()
            .numpy()
        )
        np.testing.assert_allclose(distances(cloud.features), distances(want), rtol=1e-4, atol=1e-5)
        together = together + distances(want) ** 2
    whole = torch.stack([projected(graph, output, row) for row in cloud.nodes.itertuples()]).detach().numpy()
    assert (
        np.abs(np.sqrt(together) / (distances(whole) + np.eye(len(whole))) - 1).max() > 0.1
    )  # why a layer needs W_o


def test_one_head_is_its_own_layer():
    output = nn.Linear(6, 20)
    graph = graph_of(h=1, output=output)
    clouds = []
    for points in (Points(), Points(heads=[0])):
        points.add("layer", graph, names(2))
        clouds += points.clouds()
    np.testing.assert_array_equal(*(cloud.features for cloud in clouds))


def test_without_a_projection_distances_are_those_before_it():
    graph = graph_of()
    for points in (Points(), Points(heads=[0, 1, 2])):
        points.add("layer", graph, names(2))
        assert not any(cloud.projected for cloud in points.clouds())
    first = points.clouds()[0]
    want = [
        (graph.query if row.role == "query" else graph.value)[int(row.example[-1]), 0, row.node]
        for row in first.nodes.itertuples()
    ]
    np.testing.assert_array_equal(first.features, np.stack(want))


def test_a_whole_layer_is_refused_without_w_o(output):
    with pytest.raises(ValueError, match="output_matrices"):
        Points().add("layer", graph_of(output=output), names(2))


def test_padding_is_left_out_and_labels_stay_with_their_nodes():
    rows = torch.tensor([[True, True, True, False], [True, False, False, False]])
    causal = torch.ones(4, 4, dtype=torch.bool).tril() & rows[:, None] & rows[:, :, None]
    graph = graph_of(
        h=1,
        m=4,
        query_mask=rows,
        value_mask=causal,
        causal=True,
        kind="self",
        query_modality="text",
        value_modality=torch.tensor([[True, False, False, False]] * 2),
    )
    tokens = [["[CLS]", "red", "star", "[PAD]"], ["[CLS]", "[PAD]", "[PAD]", "[PAD]"]]
    points = Points()
    points.add("layer", graph, names(2), {"token": tokens}, {"token": tokens, "class": np.char.upper(tokens)})
    nodes = points.clouds()[0].nodes
    assert len(nodes) == 2 * 4 and "[PAD]" not in set(nodes.token)
    for row in nodes.itertuples():
        assert row.token == tokens[int(row.example[-1])][row.node]
        assert row.kind == "self"
        assert row.modality == ("image" if row.role == "value" and row.node == 0 else "text")
    values = nodes[nodes.role == "value"]
    assert (values["class"] == values.token.str.upper()).all() and (
        nodes[nodes.role == "query"]["class"] == ""
    ).all()


def test_padding_that_no_mask_tells_is_left_out_too():
    points = Points()
    valid = torch.tensor([[True, True, False, False, True]] * 2)
    points.add("layer", graph_of(h=1), names(2), value_valid=valid)
    nodes = points.clouds()[0].nodes
    assert set(nodes[nodes.role == "value"].node) == {0, 1, 2} and len(nodes) == 2 * (4 + 3)


def test_points_are_thinned_evenly_over_examples_and_roles():
    points = Points(most=60)
    for k in range(4):
        points.add("layer", graph_of(b=3, h=1, n=3, m=50, seed=k), [f"picture {3 * k + i}" for i in range(3)])
    (cloud,) = points.clouds()
    counts = cloud.nodes.groupby(["example", "role"]).size()
    assert (
        counts.loc[:, "query"].eq(2).all() and counts.loc[:, "value"].eq(2).all()
    )  # 12 x (2 + 2); 3 would be 72
    assert len(counts) == 24
    assert not cloud.nodes.duplicated(["example", "role", "node"]).any()


def test_a_short_side_leaves_its_room_to_the_other():
    points = Points(most=100)
    points.add("layer", graph_of(b=2, h=1, n=3, m=90), names(2))
    assert points.clouds()[0].nodes.groupby("role").size().to_dict() == {"query": 6, "value": 94}


def test_padding_takes_no_room():
    valid = torch.zeros(2, 90, dtype=torch.bool)
    valid[:, 60:80] = True
    points = Points(most=40)
    points.add("layer", graph_of(b=2, h=1, n=90, m=90), names(2), query_valid=valid, value_valid=valid)
    assert points.clouds()[0].nodes.groupby(["example", "role"]).size().eq(10).all()


def test_every_batch_is_thinned_in_its_own_way():
    points = Points(most=40)
    for k in range(2):
        points.add("layer", graph_of(b=1, h=1, n=90, m=90), [f"picture {k}"])
    chosen = points.clouds()[0].nodes.groupby(["example", "role"]).node.agg(frozenset)
    assert len(set(chosen)) == len(chosen) == 4


def test_more_examples_than_points_leave_one_point_each_at_most():
    points = Points(most=7)
    points.add("layer", graph_of(b=10, h=1), names(10))
    nodes = points.clouds()[0].nodes
    assert len(nodes) == 7 and not nodes.duplicated(["example", "role"]).any()


def test_the_choice_depends_on_the_seed_and_the_nodes_alone():
    def chosen(seed, features=0, heads=None):
        points = Points(most=20, seed=seed, heads=heads)
        points.add("layer", graph_of(h=1, m=40, seed=features), names(2))
        nodes = points.clouds()[0].nodes
        return list(zip(nodes.role, nodes.example, nodes.node))

    assert chosen(0) == chosen(0, features=1) == chosen(0, heads=[0])
    assert chosen(0) != chosen(1)


def test_thinning_on_the_way_changes_nothing():
    early, late = Points(50, heads=[0, 1]), Points(10_000, heads=[0, 1])
    for k in range(12):
        for points in (early, late):
            points.add("layer", graph_of(b=1, h=2, n=10, m=10, seed=k), [f"picture {k}"])
        assert sum(map(len, early._layers["layer"].rows)) <= 100
    late.most = 50
    for single, other in zip(early.clouds(), late.clouds()):
        assert single.nodes.equals(other.nodes)
        np.testing.assert_array_equal(single.features, other.features)


def test_many_examples_are_thinned_seldom(monkeypatch):
    """However many examples there are beyond the points, each row is gone over a few times only."""
    gone_over = []
    thin = points_module._Layer.thin

    def counted(layer, most):
        gone_over.append(sum(map(len, layer.rows)))
        thin(layer, most)

    monkeypatch.setattr(points_module._Layer, "thin", counted)
    points = Points(most=20, seed=0)
    for k in range(200):
        points.add("layer", graph_of(b=2, h=1, seed=k), [f"picture {2 * k}", f"picture {2 * k + 1}"])
    (cloud,) = points.clouds()
    assert len(cloud.nodes) == 20 and sum(gone_over) < 10 * 200 * 2 * 2


def test_a_model_whose_layers_have_projections():
    model = BertModel(
        BertConfig(
            vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=8
        )
    ).eval()
    inputs = {
        "input_ids": torch.randint(0, 30, (2, 6)),
        "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]),
    }
    outputs = output_matrices(model)
    points = Points(outputs=outputs)
    graphs = capture(model, inputs)
    assert list(outputs) == list(graphs)
    for name, graph in graphs.items():
        points.add(name, graph, names(2))
    clouds = points.clouds()
    assert len(clouds) == 2 and all(cloud.projected and len(cloud.nodes) == 2 * 10 for cloud in clouds)
    dense = model.encoder.layer[0].attention.output.dense
    row = clouds[0].nodes.iloc[7]
    want = projected(graphs["encoder.layer.0.attention.self"], dense, row)
    np.testing.assert_allclose(clouds[0].features[7], want.detach().numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: Points(most=0), "most"),
        (lambda: Points().add("layer", graph_of(h=1), ["one"]), "examples"),
        (lambda: Points(heads=[0, 3]).add("layer", graph_of(), names(2)), "heads"),
        (lambda: Points().add("layer", graph_of(h=1), names(2), {"token": [["a"]]}), "query_labels"),
    ],
)
def test_what_does_not_fit_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_batches_change_nothing():
    whole, apart = Points(most=40), Points(most=40)
    graph = graph_of(b=6, h=1, n=5, m=9)
    labels = [f"picture {k}" for k in range(6)]
    whole.add("layer", graph, labels)
    for k in range(6):
        single = replace(
            graph, query=graph.query[k : k + 1], value=graph.value[k : k + 1], weight=graph.weight[k : k + 1]
        )
        apart.add("layer", single, labels[k : k + 1])
    (single,), (other,) = whole.clouds(), apart.clouds()
    pd.testing.assert_frame_equal(single.nodes, other.nodes)
    np.testing.assert_array_equal(single.features, other.features)


def test_a_refused_batch_leaves_nothing_behind():
    points, graph = Points(heads=[0]), graph_of(h=1)
    with pytest.raises(ValueError, match="value_labels"):
        points.add("layer", graph, names(2), value_labels={"class": [["x"] * 4] * 2})
    assert not points.clouds()
    points.add("layer", graph, names(2))
    assert len(points.clouds()[0].nodes) == 2 * (4 + 5)
