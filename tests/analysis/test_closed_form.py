"""pGNN's closed form against loops over edges, its limit, and the scheme's own weights."""

from dataclasses import replace

import pytest
import torch

from attngraph import AttentionGraph
from attngraph.adapters.pgnn import PGNN
from attngraph.adapters.rotated_queries import RotatedQueries
from attngraph.analysis.closed_form import closed_form
from attngraph.analysis.contrast import square_distances
from attngraph.backends import edges_of
from tests.analysis.example_graphs import random_graph

GRAPHS = [
    ({}, 1.5, "sum"),
    ({"causal": True}, 2.7, "mean"),
    ({"kind": "self", "causal": True}, 1.5, "mean"),
    ({"softmax": False, "metric": False}, 2.7, "sum"),
]


def loops(graph: AttentionGraph, p: float, degree: str) -> torch.Tensor:
    """The definition on the scheme's own message weights, an edge after the other, ``(b, h, 4)``."""
    edges = edges_of(graph)
    messages = PGNN(p=p, learn_p=False, degree=degree).message_weights(edges)
    e = edges.value_degree(degree).expand_as(graph.weight)
    b, h, n, m, d = graph.shape
    metric = torch.eye(d).double().expand(h, d, d) if graph.metric is None else graph.metric
    found = torch.empty(b, h, 4, dtype=torch.float64)
    for x in range(b):
        for k in range(h):
            pairs, apart = [], []
            for i in range(n):
                on = [j for j in range(m) if graph.weight[x, k, i, j] > 0]
                if not on:
                    continue
                weight = graph.weight[x, k, i, on]
                v = graph.value[x, k, on]
                length = (v @ metric[k] * v).sum(-1).sqrt()
                form = weight ** (p / 2) * e[x, k, i, on] ** ((1 - p) / 2) * length ** (p - 2)
                own = messages[x, k, i, on]
                logs = [(w / weight).log() for w in (own, form)]
                pairs.append(torch.stack([log - log.mean() for log in logs]))
                q = graph.query[x, k, i]
                lengths = (q @ metric[k] @ q) / weight.sum() + length**2 / e[x, k, i, on]
                others = (form, weight ** (p / 2) * lengths ** (p / 2 - 1) / e[x, k, i, on].sqrt(), weight)
                apart.append([(own / own.sum() - w / w.sum()).abs().sum() / 2 for w in others])
            r = torch.corrcoef(torch.cat(pairs, 1))[0, 1]
            found[x, k] = torch.stack([r, *torch.tensor(apart, dtype=torch.float64).mean(0)])
    return found


@pytest.mark.parametrize("options, p, degree", GRAPHS)
def test_against_loops(options, p, degree):
    graph = random_graph(**options)
    found = closed_form(graph, p, degree)
    found = torch.stack([found.r, found.variation, found.without_product, found.from_attention], -1)
    torch.testing.assert_close(found, loops(graph, p, degree), rtol=1e-9, atol=1e-12)


def test_small_degrees_take_the_query_out():
    """The fewer queries share their weight among the values, the nearer pGNN is to its closed form, and the
    nearer its distances are to those of rotated queries; attention stays as far."""
    draw = torch.Generator().manual_seed(0)
    query, value = (torch.randn(1, 2, nodes, 16, generator=draw).double() for nodes in (4, 4096))
    weight = (2 * torch.randn(1, 2, 4, 4096, generator=draw).double()).softmax(-1)
    found = []
    for m in (16, 256, 4096):
        some = weight[..., :m] / weight[..., :m].sum(-1, keepdim=True)
        graph = AttentionGraph(query, value[:, :, :m], some, kind="cross")
        form = closed_form(graph)
        square, turned = square_distances(graph), square_distances(graph, rotated=0)
        expected = RotatedQueries(p=3, learn_p=False).reweight(graph)
        torch.testing.assert_close(some**1.5 * turned.sqrt(), expected)
        apart = (some * (square - turned).abs() / square).sum(-1).mean()
        found.append([1 - form.r.mean(), form.variation.mean(), apart, form.from_attention.mean()])
    first, second, third = torch.tensor(found)
    assert (second[:3] < 0.5 * first[:3]).all() and (third[:3] < 0.5 * second[:3]).all()
    assert third[3] > 0.8 * first[3] and third[3] > 10 * third[1]


def test_what_has_no_number():
    """Without edges nothing is defined; p = 2 is exact; values without length give finite numbers."""
    graph = random_graph(padding=False)
    empty = closed_form(replace(graph, weight=torch.zeros_like(graph.weight)))
    assert empty.r.isnan().all() and empty.variation.isnan().all() and empty.from_attention.isnan().all()
    exact = closed_form(graph, p=2)
    torch.testing.assert_close(exact.r, torch.ones_like(exact.r))
    assert exact.variation.max() < 1e-12 and exact.from_attention.min() > 1e-3
    value = graph.value.clone()
    value[:, :, 0] = 0
    found = closed_form(replace(graph, value=value))
    assert found.r.isfinite().all() and found.variation.isfinite().all()
