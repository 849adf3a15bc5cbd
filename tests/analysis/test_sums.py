"""Sums over edges against their definitions, with every kind of mask."""

from dataclasses import fields, replace

import pytest
import torch

from attngraph.analysis import sums
from attngraph.analysis.bipartite import Bipartite, off_diagonal
from attngraph.analysis.entropy import effective_degree_value
from attngraph.analysis.labels import Labels
from attngraph.analysis.nulls import uniform
from attngraph.analysis.sums import ClassSums, EdgeSums
from tests.analysis.example_graphs import random_graph

GRAPHS = [
    {},
    {"kind": "self", "causal": True},
    {"kind": "self"},
    {"padding": False},
    {"softmax": False, "padding": False, "n": 7, "m": 5},
]


def given(graph: Bipartite) -> tuple[torch.Tensor, list[Labels]]:
    """Features, and classes that all heads share and that each has, some of them unknown."""
    draw = torch.Generator().manual_seed(3)
    b, h, n, m = graph.weight.shape
    labellings = []
    for heads, classes, shared in ((1, 4, True), (h, 3, False)):
        query, value = (torch.randint(-1, classes, (b, heads, nodes), generator=draw) for nodes in (n, m))
        labellings.append(Labels(query, value, shared).on(graph))
    return graph.value, labellings


def assert_same(found: EdgeSums | ClassSums, expected: EdgeSums | ClassSums, **tolerances: float) -> None:
    for field in fields(expected):
        one, other = (getattr(x, field.name) for x in (found, expected))
        if isinstance(other, ClassSums):
            assert_same(one, other, **tolerances)
        else:
            torch.testing.assert_close(one, other, check_dtype=False, **tolerances)


def by_class(weight: torch.Tensor, labellings: list[Labels]) -> ClassSums:
    at_queries, at_values = [], []
    for labels in labellings:
        y, z = (codes.double().expand(len(codes), 3, -1, -1) for codes in labels.codes())
        at_queries.append(torch.einsum("bhnm,bhmc->bhcn", weight, z))
        at_values.append(torch.einsum("bhnm,bhnk->bhkm", weight, y))
    return ClassSums(torch.einsum("bhnm->bhn", weight), tuple(at_queries), tuple(at_values))


@pytest.mark.parametrize("options", GRAPHS)
def test_against_definitions(options, monkeypatch):
    """In parts of one head, and of some examples, too: parts in each other's place would show."""
    graph = Bipartite.of(random_graph(b=3, **options))
    values, labellings = given(graph)
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
        torch.einsum("bhnm,bhmc->bhnc", weight, values),
        by_class(weight, labellings),
    )
    n, m = weight.shape[2:]
    for edges in (sums.EDGES, 6 * n * m, 2 * n * m, 1):
        monkeypatch.setattr(sums, "EDGES", edges)
        assert_same(EdgeSums.of(graph, values, labellings), expected)
        if graph.paired:
            without = EdgeSums.of(graph, values, labellings, self_loops=False)
            assert_same(without, replace(expected, by_class=by_class(off_diagonal(weight), labellings)))


@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("options", GRAPHS)
def test_uniform_is_that_of_the_dense_graph(options, loops):
    graph = Bipartite.of(random_graph(**options))
    if not loops and graph.paired:
        graph = graph.without_self_loops()
    values, labellings = given(graph)
    found = EdgeSums.uniform(graph, values)
    classes = ClassSums.uniform(graph, labellings, found.query_degree)
    assert_same(replace(found, by_class=classes), EdgeSums.of(uniform(graph), values, labellings))


def test_uniform_attention_of_many_nodes_in_float32():
    """Equal terms are rounded alike: summed in float32, 300 of them moved this by 3e-5."""
    n, m = 300, 320
    graph = Bipartite(torch.full((1, 1, n, m), 1 / m), torch.ones(1, n, m, dtype=torch.bool))
    assert effective_degree_value(EdgeSums.uniform(graph)).item() == pytest.approx(n, rel=2e-6)
