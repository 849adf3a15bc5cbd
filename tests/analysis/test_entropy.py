"""Entropies against scipy, and known answers."""

import math

import pytest
import scipy.stats
import torch

from attngraph.analysis.bipartite import Bipartite
from attngraph.analysis.entropy import effective_degree, effective_degree_value, entropy, hubs, self_weight
from attngraph.analysis.sums import EdgeSums
from tests.analysis.example_graphs import random_graph


@pytest.mark.parametrize("options", [{}, {"kind": "self", "causal": True}, {"softmax": False}])
def test_against_scipy(options):
    graph = Bipartite.of(random_graph(**options))
    sums = EdgeSums.of(graph)
    for e in range(2):
        for h in range(3):
            weight = graph.weight[e, h].numpy()
            rows = [k for k in range(len(weight)) if graph.rows[e, k]]
            seen = graph.visible[e].sum(1).tolist()
            nats = {k: scipy.stats.entropy(weight[k]) for k in rows}
            shares = [nats[k] / math.log(seen[k]) for k in rows if seen[k] > 1]
            assert entropy(sums)[e, h].item() == pytest.approx(sum(shares) / len(shares))
            assert effective_degree(sums)[e, h].item() == pytest.approx(
                sum(map(math.exp, nats.values())) / len(nats)
            )
            columns = [math.exp(scipy.stats.entropy(column)) for column in weight.T if column.sum() > 0]
            assert effective_degree_value(sums)[e, h].item() == pytest.approx(sum(columns) / len(columns))
            spread = scipy.stats.entropy(weight.sum(0)) / math.log(graph.columns[e].sum())
            assert hubs(sums)[e, h].item() == pytest.approx(1 - spread)


def test_known_answers():
    view = Bipartite.of(random_graph(kind="self", causal=True, padding=False))
    own = EdgeSums.of(view)
    assert torch.allclose(self_weight(own), view.weight.diagonal(dim1=-2, dim2=-1).mean(-1))
    assert (self_weight(EdgeSums.of(view.without_self_loops())) == 0).all()
    graph = Bipartite.of(random_graph(padding=False))
    assert self_weight(EdgeSums.of(graph)).isnan().all()
    flat = EdgeSums.uniform(graph)
    assert torch.allclose(entropy(flat), torch.ones(2, 3, dtype=torch.float64))
    assert torch.allclose(effective_degree(flat), torch.full((2, 3), 7.0, dtype=torch.float64))
    assert torch.allclose(effective_degree_value(flat), torch.full((2, 3), 5.0, dtype=torch.float64))
    assert hubs(flat).max() < 1e-9
    sink = torch.zeros_like(graph.weight)
    sink[..., 2] = 1
    sink = EdgeSums.of(Bipartite(sink, graph.visible))
    assert entropy(sink).max() == 0 and (effective_degree(sink) == 1).all() and (hubs(sink) == 1).all()
    assert torch.allclose(effective_degree_value(sink), torch.full((2, 3), 5.0, dtype=torch.float64))


def test_one_visible_value_and_no_edges():
    single = EdgeSums.of(Bipartite(torch.ones(1, 1, 3, 1), torch.ones(1, 3, 1, dtype=torch.bool)))
    assert entropy(single).isnan().all() and hubs(single).isnan().all()
    assert effective_degree(single).item() == 1
    nothing = EdgeSums.of(Bipartite(torch.zeros(1, 1, 3, 2), torch.ones(1, 3, 2, dtype=torch.bool)))
    assert all(
        function(nothing).isnan().all()
        for function in (entropy, effective_degree, effective_degree_value, hubs)
    )
