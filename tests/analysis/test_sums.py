"""Sums over edges against their definitions, with every kind of mask."""

from dataclasses import fields

import pytest
import torch

from attngraph.analysis import sums
from attngraph.analysis.bipartite import Bipartite
from attngraph.analysis.entropy import effective_degree_value
from attngraph.analysis.nulls import uniform
from attngraph.analysis.sums import EdgeSums
from tests.analysis.example_graphs import random_graph

GRAPHS = [
    {},
    {"kind": "self", "causal": True},
    {"kind": "self"},
    {"padding": False},
    {"softmax": False, "padding": False, "n": 7, "m": 5},
]


def sides(graph: Bipartite) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Features, and numbers that all heads share."""
    draw = torch.Generator().manual_seed(3)
    b, _, n, m = graph.weight.shape
    alike = (torch.randn(b, 1, nodes, 2, generator=draw, dtype=torch.float64) for nodes in (m, n))
    values, queries = ([x, other] for x, other in zip((graph.value, graph.query), alike))
    return values, queries


def assert_same(found: EdgeSums, expected: EdgeSums, **tolerances: float) -> None:
    for field in fields(EdgeSums):
        torch.testing.assert_close(
            getattr(found, field.name), getattr(expected, field.name), check_dtype=False, **tolerances
        )


@pytest.mark.parametrize("options", GRAPHS)
def test_against_definitions(options, monkeypatch):
    """In parts of one head, and of some examples, too: parts in each other's place would show."""
    graph = Bipartite.of(random_graph(b=3, **options))
    values, queries = sides(graph)
    weight = graph.weight
    logs = torch.where(weight > 0, weight * weight.clamp(min=1e-300).log(), 0)
    expected = EdgeSums(
        torch.einsum("bhnm->bhn", weight),
        torch.einsum("bhnm->bhm", weight),
        torch.einsum("bhnm->bhn", logs),
        torch.einsum("bhnm->bhm", logs),
        torch.tensor([[int(row.sum()) for row in example] for example in graph.visible]),
        torch.tensor([[int(column.sum()) for column in example.T] for example in graph.visible]),
        torch.einsum("bhii->bhi", weight) if graph.paired else None,
        tuple(torch.einsum("bhnm,bhmc->bhnc", weight, x.expand(3, 3, -1, -1)) for x in values),
        tuple(torch.einsum("bhnm,bhnc->bhmc", weight, x.expand(3, 3, -1, -1)) for x in queries),
    )
    n, m = weight.shape[2:]
    for edges in (sums.EDGES, 6 * n * m, 2 * n * m, 1):
        monkeypatch.setattr(sums, "EDGES", edges)
        assert_same(EdgeSums.of(graph, values, queries), expected)


@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("options", GRAPHS)
def test_uniform_is_that_of_the_dense_graph(options, loops):
    graph = Bipartite.of(random_graph(**options))
    if not loops and graph.paired:
        graph = graph.without_self_loops()
    values, queries = sides(graph)
    assert_same(EdgeSums.uniform(graph, values, queries), EdgeSums.of(uniform(graph), values, queries))


def test_uniform_attention_of_many_nodes_in_float32():
    """Equal terms are rounded alike: summed in float32, 300 of them moved this by 3e-5."""
    n, m = 300, 320
    graph = Bipartite(torch.full((1, 1, n, m), 1 / m), torch.ones(1, n, m, dtype=torch.bool))
    assert effective_degree_value(EdgeSums.uniform(graph)).item() == pytest.approx(n, rel=2e-6)
