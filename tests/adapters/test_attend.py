"""Every scheme on attention scores: the fast ways give what the dense backend gives on the graph."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attngraph.adapters import GCN, PGNN
from attngraph.backends import chunks
from tests.adapters.cases import TYPICAL
from tests.attngraph.scores_cases import on_leaves, random_scores
from tests.pairwise import pairwise_params


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


def test_steps_and_a_trained_metric_take_the_dense_backend():
    scores = random_scores(3)
    several = PGNN(steps=2).double()
    assert torch.equal(several.aggregate_and_context(scores)[0], several(scores.graph()))
    for normalize in (False, True):  # GCN computes the attention output once
        aggregated, plain = GCN(normalize).aggregate_and_context(scores)
        assert (aggregated is plain) == (not normalize)
    trained = replace(scores, metric=scores.metric.clone().requires_grad_())
    PGNN().double().aggregate_and_context(trained)[0].sum().backward()
    assert trained.metric.grad.abs().max() > 0


@pytest.mark.parametrize(
    "case, causal, rotated", pairwise_params(case=TYPICAL, causal=[False, True], rotated=[False, True])
)
def test_no_scheme_holds_all_edges_on_the_tiled_backend(case, causal, rotated, monkeypatch):
    monkeypatch.setattr("attngraph.backends.chunks.MOST", 16)
    monkeypatch.setattr("attngraph.scores.STRIP", 16)
    n, d = 96, 4
    scores, leaves = on_leaves(
        random_scores(5, b=1, h=1, n=n, m=n, d=d, causal=causal, triangular=causal, rotated=rotated)
    )
    scheme = case.make(torch.float64)
    with LargestTensor() as largest:
        aggregated, plain = scheme.aggregate_and_context(scores, "tiled")
        torch.autograd.grad((aggregated + plain).sum(), leaves, allow_unused=True)
    assert n * d <= largest.elements <= 2048 < n * n


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_chunks_of_any_size(rows, causal, monkeypatch):
    """Of a scheme that asks for sums at values in every way: twice for a degree, from a sum that depends on
    another, also in a causal graph; with a learned parameter. A sum taken for another one, or one chunk's for
    all, would show."""
    monkeypatch.setattr("attngraph.backends.chunks.MOST", rows)
    scheme = GCN()
    scheme.gain = torch.nn.Parameter(torch.tensor(1.3, dtype=torch.float64))

    def propagate(edges):
        weight = edges.weight * edges.value_degree("mean") / (1 + edges.value_degree("sum"))
        total = edges.sum_at_values(weight * scheme.gain)
        value = edges.to_values(weight, edges.query) / (1 + total) + edges.value
        if not edges.causal:
            dot = edges.products(edges.query, value)[2]
            value = value + edges.to_values(dot.tanh() * weight, edges.query)
        return edges.to_queries(weight, value) * edges.sum_at_queries(weight)

    scheme.propagate = propagate
    scores, leaves = on_leaves(random_scores(6, causal=causal, padded=True, past=causal))
    want, got = scheme(scores), scheme(scores, "tiled")
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)
    probe = torch.randn_like(want)
    for g, w in zip(*(torch.autograd.grad(x, [*leaves, scheme.gain], probe) for x in (got, want))):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-10)


def test_sums_at_values_are_added_up_chunk_by_chunk(monkeypatch):
    """Messages to values are as large as all values: kept for each chunk, they would be n·m·d numbers."""
    parts, alive = [], []

    class Watched(chunks._Missing):
        def __init__(self, part):
            super().__init__(part)
            parts.append(weakref.ref(part))
            alive.append(sum(x() is not None for x in parts))

    monkeypatch.setattr(chunks, "_Missing", Watched)
    monkeypatch.setattr(chunks, "MOST", 2)
    with torch.no_grad():
        PGNN(steps=2).double()(random_scores(8, n=20), "tiled")
    assert len(parts) == 3 * 10 and max(alive) <= 3


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_the_dense_path_compiles_without_breaks(compiler):
    scheme = PGNN(degree="mean")
    scores, leaves = on_leaves(random_scores(7, causal=True, padded=True, dtype=torch.float32))

    def run(query, key, value):
        return scheme(replace(scores, query=query, key=key, value=value).graph())

    compiled = torch.compile(run, fullgraph=True, backend=compiler)
    want, got = run(*leaves), compiled(*leaves)
    torch.testing.assert_close(got, want)
    leaves += scheme.parameters()
    for g, w in zip(*(torch.autograd.grad(x.square().sum(), leaves) for x in (got, want))):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5)
