"""Passes over edges in C against torch's in float64, on the same numbers."""

from dataclasses import fields, replace

import pytest
import torch

from attngraph import AttentionGraph
from attngraph.analysis import sums
from attngraph.analysis.along import along_edges
from attngraph.analysis.bipartite import Bipartite
from attngraph.analysis.closed_form import ClosedForm, closed_form
from attngraph.analysis.clouds import neighbour_cka
from attngraph.analysis.energy import Energies, energies, energies_of_graphs
from attngraph.analysis.heterophily import Heterophily
from attngraph.analysis.labels import Labels
from attngraph.analysis.nulls import Draws, in_orders, permutation
from attngraph.analysis.sums import ClassSums, EdgeSums
from attngraph.native import library as native
from tests.analysis.example_graphs import labels_for, random_graph

GRAPHS = {
    "masked": {},
    "causal": {"kind": "self", "causal": True, "n": 9},
    "ordered queries": {"causal": True},
    "rows that sum to anything": {"softmax": False, "padding": False},
    "one row": {"n": 1},
    "self-attention in several strips": {
        "kind": "self",
        "n": 150,
        "d": 16,
        "padding": False,
        "metric": False,
    },
    "more values than a strip of them": {"n": 20, "m": 2100, "d": 3, "b": 1},
}


@pytest.fixture(params=list(native.VARIANTS))
def in_c(request, monkeypatch):
    """The library, with which nothing in single precision may be left to torch."""
    if native._find(request.param)[0] is None:
        pytest.skip("not built, or not for this processor")
    monkeypatch.setenv(native.VARIABLE, request.param)
    in_parts = sums.in_parts

    def of_double(function, *arrays):
        assert all(x.dtype != torch.float32 for x in arrays)
        return in_parts(function, *arrays)

    for module in ("sums", "along"):
        monkeypatch.setattr(f"attngraph.analysis.{module}.in_parts", of_double)


def cast(graph: AttentionGraph, dtype: torch.dtype) -> AttentionGraph:
    names = ("query", "value", "weight") + (() if graph.metric is None else ("metric",))
    return replace(graph, **{name: getattr(graph, name).to(dtype) for name in names})


def both(options: dict) -> tuple[AttentionGraph, AttentionGraph]:
    """A graph in single precision, and the same numbers in double."""
    single = cast(random_graph(**options), torch.float32)
    return single, cast(single, torch.float64)


def assert_near(found: torch.Tensor, expected: torch.Tensor, name: str = "") -> None:
    """To 1e-5, and where terms cancel to 1e-6 of the largest number."""
    largest = max(1.0, float(expected.double().nan_to_num().abs().max()))
    assert_close(
        found.double(), expected.double(), rtol=1e-5, atol=1e-6 * largest, msg=lambda text: f"{name}: {text}"
    )


def assert_close(*args, **options):
    torch.testing.assert_close(*args, equal_nan=True, **options)


def asked(graph: Bipartite) -> tuple[torch.Tensor, list[Labels]]:
    """Features, and classes that all heads share, some of them unknown, and that each has, a class a node."""
    b, h, n, m = graph.weight.shape
    draw = torch.Generator().manual_seed(1)
    query, value = (torch.randint(-1, 4, (b, 1, nodes), generator=draw) for nodes in (n, m))
    apart = (torch.arange(nodes).expand(b, h, nodes) for nodes in (n, m))
    return graph.value, [Labels(query, value), Labels(*apart, shared=False)]


def with_nulls(graph: Bipartite, p: float) -> list[Energies]:
    """Of the graph, of two permuted graphs, and of uniform attention."""
    draws = Draws()
    orders = [permutation(graph, draws) for _ in range(2)]
    along = along_edges(graph, p, EdgeSums.of(graph), orders, EdgeSums.uniform(graph))
    return energies_of_graphs(graph, p, along)


def assert_sums(found: EdgeSums | ClassSums, expected: EdgeSums | ClassSums) -> None:
    for field in fields(expected):
        one, other = (getattr(x, field.name) for x in (found, expected))
        if isinstance(other, ClassSums):
            assert_sums(one, other)
        else:
            for pair in zip(one, other) if isinstance(other, tuple) else [(one, other)] * (other is not None):
                assert_near(*pair, field.name)


@pytest.mark.parametrize("options", GRAPHS.values(), ids=GRAPHS)
def test_sums(in_c, options):
    """Also without self-loops in sums by class; strips and lines in the wrong place would show."""
    single, double = map(Bipartite.of, both(options))
    for self_loops in (True, False):
        if single.paired or self_loops:
            weight = single.weight.clone()
            found, expected = (EdgeSums.of(x, *asked(x), self_loops) for x in (single, double))
            assert_sums(found, expected)
            assert torch.equal(single.weight, weight)
        else:
            with pytest.raises(ValueError, match="self-loops"):
                EdgeSums.of(single, self_loops=False)


@pytest.mark.parametrize("p", [1, 1.5, 2.7])
@pytest.mark.parametrize("options", GRAPHS.values(), ids=GRAPHS)
def test_energies(in_c, options, p):
    """p = 1.5 has a way of its own, and so have uniform attention with and without a mask and permuted graphs
    with queries that move and that stay."""
    found, expected = (with_nulls(graph, p) for graph in map(Bipartite.of, both(options)))
    assert len(found) == 4
    for one, other in zip(found, expected):
        for name in one._fields:
            assert_near(getattr(one, name), getattr(other, name), name)


@pytest.mark.parametrize("p, degree", [(1.5, "sum"), (2.7, "mean")])
@pytest.mark.parametrize("options", GRAPHS.values(), ids=GRAPHS)
def test_closed_form(in_c, options, p, degree):
    found, expected = (closed_form(graph, p, degree) for graph in both(options))
    for field in fields(ClosedForm):
        assert_near(getattr(found, field.name), getattr(expected, field.name), field.name)


@pytest.mark.parametrize("options", GRAPHS.values(), ids=GRAPHS)
def test_alignment(in_c, options):
    """Features far from the origin: a mean over rows that do not count would show. One query has no edges,
    and in permuted graphs another one."""
    numbers = []
    for graph in map(Bipartite.of, both(options)):
        weight, visible = graph.weight.clone(), graph.visible.clone()
        weight[:, :, 2:3] = 0
        visible[:, 2:3] = False
        graph = replace(graph, weight=weight, visible=visible, query=graph.query + 5, value=graph.value - 3)
        draws = Draws()
        orders = [permutation(graph, draws) for _ in range(2)]
        found = EdgeSums.of(graph, in_orders(graph.value, [None, *orders]).flatten(3))
        received = found.at_queries.unflatten(-1, (3, -1))
        backs = [order.argsort(-1) for order in orders] if graph.paired else []
        numbers.append(neighbour_cka(graph.query, received, found, backs))
    found, expected = numbers
    assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_threads_change_nothing(in_c):
    graph, _ = both(GRAPHS["self-attention in several strips"])
    view, threads, numbers = Bipartite.of(graph), torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found = EdgeSums.of(view, *asked(view))
            (energy,) = energies_of_graphs(view, 1.5, along_edges(view, 1.5, found))
            form = closed_form(graph)
            of_classes = found.by_class.at_queries[0], found.by_class.at_values[0]
            numbers.append([found.value_log, *of_classes, *energy[2:5:2], form.r, form.variation])
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*numbers):
        assert torch.equal(one, other)


def test_a_feature_that_is_no_number_is_not_hidden(in_c):
    """Comparisons in C take NaN for the smaller number."""
    graph, _ = both({"padding": False})
    value = graph.value.clone()
    value[0, 0, 2, 1] = torch.nan
    graph = replace(graph, value=value, metric=None)
    view = Bipartite.of(graph)
    form = closed_form(graph)
    found = (number for energy in with_nulls(view, 2.7) for number in energy)
    for numbers in (*found, form.r, form.variation, form.without_product):
        assert numbers[0, 0].isnan() and numbers[0, 1:].isfinite().all()


def test_torch_computes_where_gradients_are_wanted(monkeypatch):
    """The library has no backward pass, and must not drop gradients in silence."""
    monkeypatch.delenv(native.VARIABLE, raising=False)
    gradients = []
    for graph in map(Bipartite.of, both({})):
        value = graph.value.clone().requires_grad_()
        EdgeSums.of(graph, value).at_queries.square().sum().backward()
        gradients.append(value.grad)
    assert_near(*gradients)


@pytest.mark.parametrize("options", [options for options in GRAPHS.values() if len(options) < 4])
def test_tables_are_those_of_torch(options, monkeypatch):
    graph, _ = both(options)
    tables = []
    for kernels in ("", "eager"):
        monkeypatch.setenv(native.VARIABLE, kernels)
        measured = Heterophily()
        measured.add("layer", graph, {"x": labels_for(graph)})
        tables.append(measured.table())
    found, expected = tables
    assert list(found.statistic) == list(expected.statistic) and list(found.note) == list(expected.note)
    scale = expected[["value", "null_uniform", "null_permuted"]].abs().max(axis=1).clip(lower=1)
    for column in ("value", "null_uniform", "null_permuted", "excess", "low", "excess_high"):
        apart = (found[column] - expected[column]).abs() / scale
        assert (found[column].isna() == expected[column].isna()).all()
        assert apart.max() < 1e-5, expected.statistic[apart.idxmax()]


def test_empty_graphs_and_sides_that_do_not_fit():
    """BLAS refuses an empty product, and the library would read beyond a tensor that is too small."""
    graph = Bipartite.of(both({})[0])
    for n, m in ((0, 7), (5, 0)):
        weight, visible = graph.weight[:, :, :n, :m], graph.visible[:, :n, :m]
        empty = Bipartite(weight, visible, graph.query[:, :, :n], graph.value[:, :, :m])
        found = EdgeSums.of(empty, *asked(empty))
        assert (found.at_queries == 0).all() and (found.by_class.at_values[0] == 0).all()
        assert (energies(empty).dirichlet == 0).all()
    for value in (graph.value[:, :, 1:], graph.value[..., 1:]):
        with pytest.raises(RuntimeError, match="expand"):
            energies(replace(graph, value=value))
