"""Every scheme on attention scores: the fast ways give what the dense backend gives on the graph."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from adapters import GCN, PGNN
from attngraph import AttentionScores
from tests.adapters.cases import ONE_EACH, every_scheme
from tests.adapters.kernels.test_memory import LargestTensor
from tests.attngraph.scores_cases import KINDS, attention_output, on_leaves, random_scores


@every_scheme(
    kind=[
        "encoder, bool mask",
        "decoder self, padded",
        "decoder, cached",
        "encoder, rotated",
        "decoder self, rotated",
        "decoder, cached and rotated",
    ],
    backend=["dense", "tiled", "sparse"],
)
def test_attend_equals_the_graph(case, kind, backend, monkeypatch):
    monkeypatch.setattr("attngraph.backends.tiled.TILE", 48)
    scheme = case.make(torch.float64)
    scores, leaves = on_leaves(random_scores(1, **KINDS[kind]))
    want = scheme(scores.graph()), attention_output(scores)
    got = scheme.attend(scores, backend)
    leaves += scheme.parameters()
    for g, w in zip(got, want):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-10)
        probe = torch.randn_like(w)
        grads = (torch.autograd.grad(x, leaves, probe, retain_graph=True, allow_unused=True) for x in (g, w))
        for a, b in zip(*grads):
            if b is not None:
                torch.testing.assert_close(torch.zeros_like(b) if a is None else a, b, rtol=1e-8, atol=1e-9)
    assert scheme.attend(scores, backend, context=False)[1] is None


def test_the_default_path_of_pgnn_keeps_two_numbers_per_edge(monkeypatch):
    """Not the eight and more arrays of all edges that autograd keeps on the dense backend."""
    b, h, n, m, d = 2, 4, 8, 64, 4
    kept = {}

    def count(name):
        def pack(x):
            if x.numel() == b * h * n * m:
                kept[name] = kept.get(name, 0) + 1
            return x

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x)

    scores, _ = on_leaves(random_scores(2, b=b, h=h, n=n, m=m, d=d))
    with count("attend"):
        PGNN().attend(scores)
    with count("dense"):
        PGNN()(scores.graph())
    assert kept["attend"] == 2 and kept["dense"] >= 8


def test_steps_and_a_trained_metric_take_the_dense_backend():
    scores = random_scores(3)
    several = PGNN(steps=2).double()
    assert torch.equal(several.attend(scores)[0], several(scores.graph()))
    trained = replace(scores, metric=scores.metric.clone().requires_grad_())
    PGNN().double().attend(trained)[0].sum().backward()
    assert trained.metric.grad.abs().max() > 0


@pytest.mark.parametrize("normalize", [False, True])
def test_gcn_computes_the_attention_output_once(normalize):
    aggregated, plain = GCN(normalize).attend(random_scores(4))
    assert (aggregated is plain) == (not normalize)


@every_scheme(backend=["dense", "tiled", "sparse"], dropped=[False, True])
def test_padded_queries_attend_as_in_the_model(case, backend, dropped):
    """They have no edges, but the model goes on with their attention output."""
    scheme = case.make(torch.float64)
    scores = random_scores(4, padded=True, dropped=dropped and backend != "tiled")
    aggregated, output = scheme.attend(scores, backend)
    rows = scores.query_mask[:, None, :, None].expand_as(output)
    torch.testing.assert_close(output, attention_output(scores))
    assert (output[~rows].abs() > 1e-3).all() and not rows.all()
    torch.testing.assert_close(aggregated, scheme(scores.graph()))


@every_scheme(causal=[False, True], rotated=[False, True])
def test_no_scheme_holds_all_edges_on_the_tiled_backend(case, causal, rotated, monkeypatch):
    monkeypatch.setattr("attngraph.backends.tiled.TILE", 1024)
    monkeypatch.setattr("attngraph.scores.STRIP", 16)
    monkeypatch.setattr("adapters.kernels.tiled.ROWS", 16)
    monkeypatch.setattr("adapters.kernels.tiled.TILE", 1024)
    n, d = 96, 4
    scores, leaves = on_leaves(
        random_scores(5, b=1, h=1, n=n, m=n, d=d, causal=causal, triangular=causal, rotated=rotated)
    )
    scheme = case.make(torch.float64)
    with LargestTensor() as largest:
        aggregated, plain = scheme.attend(scores, "tiled")
        torch.autograd.grad((aggregated + plain).sum(), leaves, allow_unused=True)
    assert n * d <= largest.elements <= 2048 < n * n


def test_the_tiled_backend_says_what_it_cannot_do():
    scores = random_scores(6)
    with pytest.raises(ValueError, match="reweight"):
        PGNN().double().reweight(scores, "tiled")

    class Rows(GCN):
        def propagate(self, edges):
            return edges.to_queries(edges.weight.softmax(-1), edges.value)

    with pytest.raises(TypeError, match="softmax does not work edge by edge"):
        Rows()(scores, "tiled")

    class Shape(GCN):
        def propagate(self, edges):
            return edges.to_queries(edges.weight * torch.ones(3, 3), edges.value)

    with pytest.raises(ValueError, match="does not broadcast to the edges"):
        Shape()(scores, "tiled")

    for question in (lambda x: x > 0.1, lambda x: max(x, 0), lambda x: not x, lambda x: x.requires_grad):

        class Asks(GCN):
            def propagate(self, edges, question=question):
                return edges.value if question(edges.weight) else edges.query

        with pytest.raises((TypeError, AttributeError), match="on the tiled backend"):
            Asks()(scores, "tiled")


@pytest.mark.parametrize("case", ONE_EACH, ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_tiles_leave_nothing_behind(case, causal, monkeypatch):
    """Autograd alone keeps what the backward pass needs, so hooks can take it away; no cycle of references
    waits for the garbage collector."""
    monkeypatch.setattr("attngraph.backends.tiled.TILE", 24)
    scores, leaves = on_leaves(random_scores(8, causal=causal))
    leaves.append(torch.tensor(0.6, dtype=torch.float64, requires_grad=True))  # a scale that is trained
    scores = replace(scores, scale=leaves[-1])
    scheme, away = case.make(torch.float64), []
    want = torch.autograd.grad(scheme.attend(scores, "tiled")[0].sum(), leaves, allow_unused=True)
    gc.collect()
    gc.disable()
    try:
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: away.append(x.detach().clone()) or len(away) - 1, lambda k: away[k]
        ):
            inputs = [x * 1 for x in leaves]
            given = dict(zip(("query", "key", "value", "scale"), inputs, strict=True))
            out = scheme.attend(replace(scores, **given), "tiled")[0]
        given.clear()
        alive = [weakref.ref(x) for x in inputs]
        inputs.clear()
        assert [x() for x in alive] == [None] * 4
        for pair in zip(torch.autograd.grad(out.sum(), leaves, allow_unused=True), want, strict=True):
            assert pair == (None, None) or torch.equal(*pair)
    finally:
        gc.enable()


def test_the_same_tensor_as_query_key_and_value(monkeypatch):
    monkeypatch.setattr("attngraph.backends.tiled.TILE", 16)
    x = torch.randn(1, 1, 6, 3, dtype=torch.float64, requires_grad=True)
    for causal in (False, True):
        scores = AttentionScores(x, x, x, causal=causal, triangular=causal)
        for scheme in (PGNN(steps=2).double(), PGNN().double()):
            out = [scheme(scores, "dense"), scheme(scores, "tiled"), scheme.attend(scores)[0]]
            grads = [torch.autograd.grad(y.square().sum(), x)[0] for y in out]
            for y, g in zip(out[1:], grads[1:]):
                torch.testing.assert_close(y, out[0])
                torch.testing.assert_close(g, grads[0])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_the_dense_path_compiles_without_breaks(causal, compiler):
    scheme = PGNN(degree="mean")
    scores, leaves = on_leaves(random_scores(7, causal=causal, padded=True, dtype=torch.float32))

    def run(query, key, value):
        return scheme(replace(scores, query=query, key=key, value=value).graph())

    compiled = torch.compile(run, fullgraph=True, backend=compiler)
    want, got = run(*leaves), compiled(*leaves)
    torch.testing.assert_close(got, want)
    leaves += scheme.parameters()
    for g, w in zip(*(torch.autograd.grad(x.square().sum(), leaves) for x in (got, want))):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-5)
