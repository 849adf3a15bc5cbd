"""A sweep over the edges, against the weights in float64; in C and in torch's operations."""

import copy
from dataclasses import replace

import pytest
import torch

from attngraph import AttentionGraph, AttentionScores, UserError
from attngraph import streaming as module
from attngraph.sparsify import NonZeros, keep
from attngraph.streaming import Streamed, heaviest, sweep
from tests.attngraph.native.test_library import built

WAYS = ["torch", pytest.param("c", marks=pytest.mark.skipif(not built, reason="no C compiler"))]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    monkeypatch.setattr(module, "_fits", lambda scores: request.param == "c")
    monkeypatch.setattr(module, "EDGES", 2000)  # so that there are several strips
    monkeypatch.setattr(module, "ROWS", (7, 13))
    return request.param


def scores(n, m, masked=False, seed=0, size=1.7, **more) -> AttentionScores:
    draw = torch.Generator().manual_seed(seed)
    b, h, d = 2, 3, 8
    query, key, value = (size * torch.randn(b, h, x, d, generator=draw) for x in (n, m, m))
    if masked:
        mask = torch.rand(b, 1, n, m, generator=draw) < 0.7
        mask[0, 0, n // 2] = False  # a query that sees nothing
        more |= dict(mask=mask, query_mask=torch.rand(b, n, generator=draw) < 0.8)
    return AttentionScores(query, key, value, **more)


def exact(of: AttentionScores) -> torch.Tensor:
    return replace(of, query=of.query.double(), key=of.key.double(), value=of.value.double()).weight()


CASES = [
    scores(5, 3),
    scores(70, 90, masked=True),
    scores(60, 60, triangular=True, causal=True),
    scores(40, 75, masked=True, triangular=True, causal=True),
    scores(9, 2500, size=3),  # several tiles, of which some hold next to nothing
    scores(8, 2100, triangular=True, causal=True, scale=0.1),
    scores(30, 40, mask=torch.rand(1, 1, 1, 40) < 0.6),  # shared by queries and examples
]


@pytest.mark.parametrize("of", CASES)
@pytest.mark.parametrize("top_k", [1, 6, 50])
def test_a_sweep_is_that_of_the_weights(of, top_k, way):
    weight = exact(of)
    b, h, n, m = weight.shape
    x, y = torch.randn(b, 1, m, 5), torch.randn(b, h, n, 4)
    found = sweep(of, top_k, values=x, queries=y, logs=True)
    tight = dict(rtol=3e-6, atol=3e-6, check_dtype=False)
    torch.testing.assert_close(found.totals.query_degree, weight.sum(-1), **tight)
    torch.testing.assert_close(found.totals.value_degree, weight.sum(-2), **tight)
    log = torch.special.xlogy(weight, weight)
    torch.testing.assert_close(found.totals.entropy, -log.sum(-1), rtol=0, atol=2e-5, check_dtype=False)
    torch.testing.assert_close(found.value_log, log.sum(-2), rtol=1e-5, atol=1e-5, check_dtype=False)
    torch.testing.assert_close(found.at_queries, weight @ x.double(), rtol=1e-5, atol=2e-5, check_dtype=False)
    wanted = weight.mT @ y.double()
    torch.testing.assert_close(found.at_values, wanted, rtol=1e-5, atol=2e-5, check_dtype=False)
    wanted = torch.where(keep(weight, top_k=top_k), weight, 0)
    torch.testing.assert_close(found.heaviest.dense(), wanted, rtol=1e-5, atol=1e-6, check_dtype=False)
    lean = sweep(of)  # nothing but the totals
    torch.testing.assert_close(lean.totals.value_degree, found.totals.value_degree)
    assert lean.heaviest is lean.value_log is lean.loops is lean.at_queries is lean.at_values is None
    loops = torch.zeros(b, h, n)
    loops[..., : min(n, m)] = weight.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(found.loops, loops, **tight)


@pytest.mark.parametrize("of", CASES)
def test_loops_left_out(of, way):
    """Of queries that look at their own value nearly alone, the rest is summed, not what rounding leaves."""
    own = min(of.shape[2:4])
    query = of.query.clone()
    query[:, :, :own] += 6 * of.key[:, :, :own]
    of = replace(of, query=query)
    weight = exact(of)
    weight.diagonal(dim1=-2, dim2=-1).zero_()
    y = torch.rand(1, 1, of.shape[2], 2)
    found = sweep(of, 1, queries=y, logs=True, self_loops=False)
    heaviest = torch.where(keep(weight, top_k=1), weight, 0)
    torch.testing.assert_close(found.heaviest.dense(), heaviest, rtol=1e-4, atol=1e-16, check_dtype=False)
    tight = dict(rtol=1e-4, atol=1e-16, check_dtype=False)
    torch.testing.assert_close(found.totals.query_degree, weight.sum(-1), **tight)
    torch.testing.assert_close(found.totals.value_degree, weight.sum(-2), **tight)
    torch.testing.assert_close(found.at_values, weight.mT @ y.double(), **tight)
    log = torch.special.xlogy(weight, weight)
    torch.testing.assert_close(found.totals.entropy, -log.sum(-1), rtol=1e-3, atol=1e-6, check_dtype=False)
    torch.testing.assert_close(found.value_log, log.sum(-2), rtol=1e-3, atol=1e-6, check_dtype=False)
    assert not found.loops.any()


def test_of_equal_edges_the_first_are_kept(way):
    """As :func:`attngraph.sparsify.keep` does; uniform attention, and keys that occur several times."""
    of = scores(6, 300)
    key = of.key[:, :, torch.arange(300) % 7]
    for tied in (replace(of, query=torch.zeros_like(of.query)), replace(of, key=key)):
        for top_k in (1, 5, 100, 299):
            got = sweep(tied, top_k).heaviest.places()
            assert torch.equal(got, keep(tied.weight(), top_k=top_k).nonzero().T)


def test_numbers_that_are_none_stay_so(way):
    of = scores(20, 30)
    for place in ((0, 1, 4), slice(None)):
        query = of.query.clone()
        query[place] = torch.nan
        degree = sweep(replace(of, query=query)).totals.query_degree
        assert torch.equal(degree.isnan(), query.isnan().any(-1))


@pytest.mark.skipif(not built, reason="no C compiler")
def test_parts_of_a_head_are_summed(monkeypatch):
    """Where there are more threads than heads."""
    of, calls = scores(200, 150), []
    wanted = sweep(of, 4, queries=torch.ones(1, 1, 200, 2))
    monkeypatch.setattr(torch, "get_num_threads", lambda: calls.append(1) or 16)
    got = sweep(of, 4, queries=torch.ones(1, 1, 200, 2))
    assert calls
    torch.testing.assert_close(got.at_values, wanted.at_values)
    torch.testing.assert_close(got.totals, wanted.totals)
    assert torch.equal(got.heaviest.index, wanted.heaviest.index)


def streamed(of: AttentionScores, top_k=None, **fields) -> AttentionGraph:
    mask = None if of.mask is None else of.mask.expand(2, 1, *of.shape[2:4])[:, 0]
    fields = dict(query_mask=of.query_mask, value_mask=mask, causal=of.causal) | fields
    return AttentionGraph(of.query, of.value, Streamed.of(of, top_k), **fields)


def test_a_streamed_graph_is_the_graph():
    """Also of some examples and heads, after its edges have been chosen, and from a file."""
    of = scores(70, 90, masked=True)
    graph, whole = streamed(of), of.graph()
    assert "streamed" in repr(graph)
    chosen = [1, 0, 1]
    for one, other in ((graph, whole), (graph[1, [2, 0]], whole[1, [2, 0]]), (graph[chosen], whole[chosen])):
        torch.testing.assert_close(one.weight, other.weight)
        torch.testing.assert_close(one.query_degree(), other.query_degree())
        torch.testing.assert_close(one.value_degree("mean"), other.value_degree("mean"))
        torch.testing.assert_close(one.totals.value_degree, other.value_degree()[:, :, 0])
        sparse, wanted = one.sparsify(top_k=5), other.sparsify(top_k=5)
        torch.testing.assert_close(sparse.weight, wanted.weight)
        torch.testing.assert_close(sparse.value_degree(), wanted.value_degree())
        torch.testing.assert_close(sparse.totals, one.totals)
        torch.testing.assert_close(heaviest(other, 5).totals, one.totals, rtol=1e-5, atol=1e-5)
        part, other_part = sparse[-1, 1], wanted[-1, 1]
        torch.testing.assert_close(part.weight, other_part.weight)
        assert torch.equal(part.totals.entropy, one.totals.entropy[-1:, 1:2])


def test_files(tmp_path):
    graph = streamed(scores(20, 30, masked=True))
    with pytest.raises(UserError, match="keep some of its edges, with sparsify"):
        graph.save(tmp_path / "graph")
    sparse = graph.sparsify(top_k=3)
    sparse.save(tmp_path / "graph")
    loaded = AttentionGraph.load(tmp_path / "graph")
    assert repr(loaded) == repr(sparse) and torch.equal(loaded.weight, sparse.weight)
    assert all(map(torch.equal, loaded.totals, sparse.totals))
    assert copy.deepcopy(sparse).to(torch.float64).totals.entropy.dtype == torch.float64
    with pytest.raises(ValueError, match="pass top_k"):
        graph.sparsify(mass=0.5)
    with pytest.raises(ValueError, match="top_k must be an integer"):
        graph.sparsify(top_k=0)


@pytest.mark.skipif(not built, reason="no C compiler")
def test_no_array_of_all_edges_is_made():
    """The whole of M would be 1 GB here; all allocations of torch and all of the kernel are a thousandth."""
    from torch.profiler import ProfilerActivity, profile

    n, d = 16384, 4
    query, key = (torch.randn(1, 1, n, d) for _ in range(2))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        sweep(AttentionScores(query, key, key, triangular=True), 4)
    most = max(event.self_cpu_memory_usage for event in seen.key_averages())
    assert most < 40 * n * 4


def test_a_streamed_graph_that_keeps_some_edges_is_never_dense(monkeypatch):
    """Fewer of them, other forms of it, and its totals stay those of all edges."""
    of = scores(30, 40)
    graph = AttentionGraph(of.query, of.value, Streamed.of(of, 8))
    kept, wanted = heaviest(graph, 8), graph.sparsify(top_k=3)
    assert graph.keeping(Streamed.of(of)).compact().totals is not None
    monkeypatch.setattr(NonZeros, "dense", lambda self: pytest.fail("dense"))
    fewer = kept.sparsify(top_k=3)
    assert all(map(torch.equal, fewer.edge_list(), wanted.edge_list()))
    assert fewer.totals is kept.totals
    assert kept.to_data().num_edges == kept[:, :].to_hetero().num_edges == 2 * len(kept.stored.values)
    assert kept[0, 0].to_networkx().number_of_edges() == 30 * 8
