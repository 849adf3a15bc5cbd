"""Numbers that graphs and scores refuse, and those that they carry on: NaN, and nothing at all."""

from dataclasses import replace

import pytest
import torch

from adapters import APPNP, GCN, GCNII, PGNN, Residual
from attngraph import AttentionGraph, AttentionScores
from attngraph.backends import BACKENDS
from tests.attngraph.scores_cases import on_leaves
from tests.pairwise import pairwise_params

SCHEMES = {
    "gcn": GCN(),
    "gcn, normalised": GCN(normalize=True),
    "appnp": APPNP(steps=2),
    "gcnii": GCNII(),
    "pgnn": PGNN(),
    "pgnn without residual": PGNN(mu=0.0),
    "pgnn, mean": PGNN(degree="mean"),
    "pgnn, two steps": PGNN(steps=2),
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
    "weight, message",
    [
        (torch.tensor([[[[0.5, -0.25]]]]), "weight must not be negative, got -0.25"),
        (torch.tensor([[[[float("nan"), -1.0]]]]), "weight must not be negative"),
        (
            torch.ones(1, 1, 1, 2, dtype=torch.long),
            "weight must hold floating-point numbers, got torch.int64",
        ),
        (torch.ones(1, 1, 1, 2, dtype=torch.bool), "weight must hold floating-point numbers, got torch.bool"),
    ],
    ids=["negative", "negative beside NaN", "int", "bool"],
)
def test_weights_that_are_no_shares(weight, message):
    with pytest.raises(ValueError, match=message):
        graph(weight)


@pytest.mark.parametrize("what", ["query", "value", "weight"])
def test_graphs_from_elsewhere_hold_no_nan(what):
    """A model's NaN goes on through its adapters; a file's, or one made by hand, is a mistake."""
    made = graph(torch.rand(1, 1, 3, 5))
    getattr(made, what)[0, 0, 1, 2] = float("nan")
    for back in (
        lambda: AttentionGraph.from_pyg(made.to_data()),
        lambda: AttentionGraph.from_pyg(made.to_hetero()),
        lambda: AttentionGraph.from_networkx(made.to_networkx()),
    ):
        with pytest.raises(ValueError, match=f"^{what} must not hold NaN"):
            back()


def test_what_is_hidden_is_not_looked_at_twice():
    """Weights with a gradient come from a model."""
    weight = torch.rand(1, 1, 2, 2, requires_grad=True) * 1.0
    assert graph(weight).weight is weight


@pytest.mark.parametrize("mask", [torch.ones(3, 4, dtype=torch.long), torch.ones(4, dtype=torch.uint8)])
def test_masks_of_whole_numbers(mask):
    with pytest.raises(ValueError, match="mask must be bool .True = visible. or floating-point numbers"):
        scores(mask=mask)


@pytest.mark.parametrize("name", ["query", "key", "value", "feature"])
def test_features_of_whole_numbers(name):
    fields = dict(query=torch.ones(1, 1, 2, 3), key=torch.ones(1, 1, 2, 3), value=torch.ones(1, 1, 2, 3))
    with pytest.raises(ValueError, match=f"{name} must hold floating-point numbers, got torch.int64"):
        AttentionScores(**fields | {name: torch.ones(1, 1, 2, 3, dtype=torch.long)})


def test_no_features():
    with pytest.raises(ValueError, match="query must have at least one feature"):
        scores(d=0)


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
        scheme=["gcn", "appnp", "pgnn", "pgnn without residual"],
        backend=BACKENDS,
        causal=[False, True],
    ),
)
def test_a_feature_that_is_nan_stays_nan(what, scheme, backend, causal):
    made = scores(b=1, h=1, causal=causal)
    getattr(made, what)[0, 0, 1, 0] = float("nan")
    scheme, whole = SCHEMES[scheme], made.graph()
    aggregated, context = scheme.attend(made, backend)
    assert aggregated.isnan().any()
    assert torch.equal(aggregated.isnan().any(-1), scheme(whole).isnan().any(-1))
    assert torch.equal(context.isnan(), (whole.weight @ whole.value).isnan())


@pytest.mark.parametrize("scheme", ["appnp", "pgnn", "pgnn, two steps"])
def test_degrees_that_are_nan_reach_the_others(scheme):
    """Only query 1 sees value 1; all its weights become NaN, and so do the degrees of what it sees."""
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[[0, 2], 1] = False
    made = scores(b=1, h=1, mask=mask)
    made.key[0, 0, 1, 0] = float("nan")
    for backend in BACKENDS:
        assert SCHEMES[scheme].attend(made, backend)[0].isnan().all()


@pytest.mark.parametrize(
    "none, scheme, backend, causal, masked",
    pairwise_params(
        none=["b", "h", "n", "m"],
        scheme=SCHEMES,
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
    outputs = scheme.attend(made, backend)
    for got, want in zip(outputs, (scheme(whole), whole.weight @ whole.value)):
        assert got.shape == made.query.shape
        torch.testing.assert_close(got, want)
    torch.testing.assert_close(scheme(whole, backend), outputs[0])
    assert scheme.reweight(whole, backend).shape == whole.weight.shape
    grads = torch.autograd.grad(sum(x.sum() for x in outputs), leaves, allow_unused=True)
    assert all(grad is None or grad.isfinite().all() for grad in grads)
