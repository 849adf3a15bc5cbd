from dataclasses import replace

import pytest
import torch
from torch_geometric.data import Data, HeteroData

from attngraph import PastDegree
from attngraph.analysis.bipartite import Bipartite, factor
from tests.analysis.example_graphs import random_graph


def test_features_have_the_products_of_the_metric():
    graph = random_graph()
    view = Bipartite.of(graph)
    expected = graph.query @ graph.metric @ graph.value.mT
    assert torch.allclose(view.query @ view.value.mT, expected)
    thin = torch.randn(2, 5, 3, dtype=torch.float64)
    root = factor(thin @ thin.mT)  # singular
    assert torch.allclose(root @ root.mT, thin @ thin.mT, atol=1e-9)


def test_masks():
    graph = random_graph(kind="self", causal=True)
    view = Bipartite.of(graph)
    assert torch.equal(view.rows, graph.query_mask) and torch.equal(view.columns, graph.query_mask)
    bare = view.without_self_loops()
    assert (
        not bare.rows[:, 0].any() and not bare.columns[0, -1]
    )  # nobody else sees the last, the first sees nobody else
    for other in (Bipartite.of(random_graph()), Bipartite(view.weight, view.visible)):
        with pytest.raises(ValueError, match="paired"):
            other.without_self_loops()


@pytest.mark.parametrize("view", ["to_data", "to_hetero"])
def test_same_from_pyg(view):
    graph = random_graph(b=1, h=1, causal=True)
    expected, converted = Bipartite.of(graph), Bipartite.of(getattr(graph, view)())
    for name in ("weight", "query", "value", "rows"):
        assert torch.allclose(getattr(converted, name).double(), getattr(expected, name).double()), name


def test_plain_data():
    edges = torch.tensor([[0, 1, 1], [2, 0, 0]])
    view = Bipartite.of(Data(edge_index=edges, edge_weight=torch.tensor([0.5, 1, 2]), num_nodes=3))
    assert view.weight[0, 0].tolist() == [[0, 3, 0], [0, 0, 0], [0.5, 0, 0]]  # rows are targets
    assert view.query is None
    whole = dict(x=torch.tensor([[1], [2]]), edge_index=torch.tensor([[0, 1], [1, 0]]))
    view = Bipartite.of(Data(**whole, edge_weight=torch.tensor([2, 3])))
    assert view.weight[0, 0].tolist() == [[0, 3], [2, 0]]
    assert {view.weight.dtype, view.query.dtype} == {torch.float32}


def test_plain_hetero():
    graph = HeteroData()
    graph["word"].x, graph["patch"].x = torch.randn(2, 3), torch.randn(4, 3)
    graph["patch", "seen_by", "word"].edge_index = torch.tensor([[0, 3], [1, 0]])
    view = Bipartite.of(graph)
    assert view.weight.shape == (1, 1, 2, 4) and view.weight[0, 0, 1, 0] == 1
    assert torch.equal(view.query[0, 0], graph["word"].x) and torch.equal(view.value[0, 0], graph["patch"].x)
    graph["word", "next", "word"].edge_index = torch.tensor([[0], [1]])
    with pytest.raises(ValueError, match="one edge type"):
        Bipartite.of(graph)


def test_refused():
    graph = random_graph(causal=True)
    step = replace(graph, past_degree=PastDegree(torch.zeros(2, 3, 7), torch.zeros(2)))
    lost = random_graph()
    lost.weight[0, 0, 1, 0] = torch.nan
    edges = {"edge_index": torch.tensor([[0, 1], [1, 0]]), "num_nodes": 2}
    for wrong, message in (
        (step, "step of cached decoding"),
        (lost, "weights must be finite"),
        (Data(x=torch.ones(3, 2)), "no edge_index"),
        (Data(edge_weight=torch.ones(2, 1), **edges), "one number per edge, got \\(2, 1\\)"),
        (Data(edge_weight=torch.ones(1), **edges), "one number per edge"),
        (Data(edge_weight=torch.tensor([1, torch.nan]), **edges), "finite"),
        (Data(edge_weight=torch.tensor([1, torch.inf]), **edges), "finite"),
        (Data(edge_weight=torch.tensor([1, -1.0]), **edges), "negative"),
        (Data(x=torch.ones(2), **edges), r"x must have shape \(nodes, features\), got \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            Bipartite.of(wrong)
