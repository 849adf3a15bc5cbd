"""Numbers that messages carry on: NaN, and nothing at all."""

from dataclasses import replace

import pytest
import torch

from attngraph import AttentionGraph, AttentionScores
from attngraph.adapters import APPNP, GCN, GCNII, PGNN, Residual
from attngraph.backends import BACKENDS
from tests.attngraph.scores_cases import on_leaves
from tests.pairwise import pairwise_params

SCHEMES = {
    "gcn, normalised": GCN(normalize=True),
    "appnp": APPNP(steps=2),
    "gcnii": GCNII(),
    "pgnn, mean": PGNN(degree="mean"),
    "pgnn, two steps": PGNN(steps=2, mu=0.0),
    "residual": Residual(),
}


def graph(weight: torch.Tensor, **fields) -> AttentionGraph:
    b, h, n, m = weight.shape
    draw = torch.Generator().manual_seed(0)
    query, value = (torch.randn(b, h, k, 3, generator=draw) for k in (n, m))
    return AttentionGraph(query, value, weight, **fields)


def scores(b: int = 2, h: int = 2, n: int = 3, m: int = 4, d: int = 3, **fields) -> AttentionScores:
    draw = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(b, h, k, d, generator=draw) for k in (n, m, m))
    return AttentionScores(query, key, value, **fields)


@pytest.mark.parametrize(
    "scheme, backend, causal", pairwise_params(scheme=SCHEMES, backend=BACKENDS, causal=[False, True])
)
def test_a_weight_that_is_nan_stays_nan(scheme, backend, causal):
    weight = torch.rand(1, 1, 3, 5).softmax(-1)
    weight[0, 0, 1, 2] = float("nan")
    made, scheme = graph(weight, causal=causal), SCHEMES[scheme]
    assert scheme(made, backend)[0, 0, 1].isnan().all() and scheme.reweight(made, backend)[0, 0, 1, 2].isnan()
    assert torch.equal(scheme(made, backend).isnan(), scheme(made).isnan())
    assert not scheme(made, backend)[0, 0, 0].isnan().any() or not causal  # nothing flows back in time
    for rule in (dict(top_k=2), dict(threshold=0.1), dict(mass=0.5), dict(mass=1)):
        assert made.sparsify(**rule).weight[0, 0, 1, 2].isnan()
    assert made.compact().weight[0, 0, 1, 2].isnan()


@pytest.mark.parametrize(
    "what, scheme, backend, causal",
    pairwise_params(
        what=["query", "key", "value"],
        scheme=["gcn, normalised", "appnp", "pgnn, two steps"],
        backend=BACKENDS,
        causal=[False, True],
    ),
)
def test_a_feature_that_is_nan_stays_nan(what, scheme, backend, causal):
    made = scores(b=1, h=1, causal=causal)
    getattr(made, what)[0, 0, 1, 0] = float("nan")
    scheme, whole = SCHEMES[scheme], made.graph()
    aggregated, context = scheme.aggregate_and_context(made, backend)
    assert aggregated.isnan().any()
    assert torch.equal(aggregated.isnan().any(-1), scheme(whole).isnan().any(-1))
    assert torch.equal(context.isnan(), (whole.weight @ whole.value).isnan())


@pytest.mark.parametrize(
    "none, scheme, backend, causal, masked",
    pairwise_params(
        none=["b", "h", "n", "m"],
        scheme=["gcn, normalised", "appnp", "pgnn, mean"],
        backend=BACKENDS,
        causal=[False, True],
        masked=[False, True],
    ),
)
def test_no_examples_heads_queries_or_values(none, scheme, backend, causal, masked):
    made = scores(**{none: 0}, causal=causal)
    b, _, n, m, _ = made.shape
    if masked:
        visible = torch.ones(b, 1, n, m, dtype=torch.bool).tril()
        made = replace(made, mask=visible, query_mask=torch.ones(b, n, dtype=torch.bool))
    made, leaves = on_leaves(made)
    scheme, whole = SCHEMES[scheme], made.graph()
    outputs = scheme.aggregate_and_context(made, backend)
    for got, want in zip(outputs, (scheme(whole), whole.weight @ whole.value)):
        assert got.shape == made.query.shape
        torch.testing.assert_close(got, want)
    torch.testing.assert_close(scheme(whole, backend), outputs[0])
    assert scheme.reweight(whole, backend).shape == whole.weight.shape
    grads = torch.autograd.grad(sum(x.sum() for x in outputs), leaves, allow_unused=True)
    assert all(grad is None or grad.isfinite().all() for grad in grads)
