"""The step in one function, and the tiled backend's, equal the dense backend in values and gradients, which
keeps the contract: with masks, padding, a cache, dropout; in any precision."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from adapters import PGNN
from adapters.kernels import fused_step
from attngraph import AttentionScores
from tests.adapters import brute_force
from tests.attngraph.scores_cases import (
    DROPPED,
    KINDS,
    dense,
    on_leaves,
    random_scores,
    skip_without_library,
    tiled,
)
from tests.pairwise import pairwise_params

STEPS = {"fused": fused_step, "tiled": tiled}
ALL = KINDS | DROPPED
SMALL = dict(b=2, h=1, n=3, m=4, d=2)
ROTATED = ["encoder, rotated", "decoder self, rotated", "decoder, cached and rotated"]
every_step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)


def both(kinds, dropped=tuple(DROPPED), **values) -> list:
    """Parameters of a test: both steps on kinds of scores, and the fused one on those under dropout."""
    more = pairwise_params(step=["fused"], kind=dropped, **values)
    return pairwise_params(step=STEPS, kind=kinds, **values) + more


def number(x: float, learned: bool = True) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64, requires_grad=learned)


def moved(scores: AttentionScores, leaves) -> AttentionScores:
    return replace(scores, **dict(zip(("query", "key", "value", "feature"), leaves)))


@pytest.mark.parametrize(
    "step, kind, degree, numbers, context, scale",
    both(
        [kind for kind in KINDS if kind not in ("decoder cross", "decoder self")],
        degree=["sum", "mean"],
        numbers=[(1.5, 0.1), (2.6, 0.5), (1.2, 0.0)],
        context=[False, True],
        scale=[None, "a number", "a tensor", "of each head", "trained", "trained, of each head"],
    ),
)
def test_equals_the_dense_backend(step, kind, degree, numbers, context, scale):
    scores, leaves = on_leaves(random_scores(1, **ALL[kind]))
    if scale is not None:
        factor = torch.linspace(0.3, 0.8, 2, dtype=torch.float64)
        factor = factor.view(2, 1, 1) if "of each head" in scale else factor[0]
        leaves += [factor.requires_grad_()] if "trained" in scale else []
        scores = replace(scores, scale=0.3 if scale == "a number" else factor)
    p, mu = map(number, numbers)
    aggregated, plain = STEPS[step](scores, p, 2 * mu / p, degree, context)
    want, want_plain = dense(scores, p, mu, degree)
    torch.testing.assert_close(aggregated, want, rtol=1e-11, atol=1e-12)
    probe, probe_plain = torch.randn_like(want), torch.randn_like(want)
    loss, want_loss = (aggregated * probe).sum(), (want * probe).sum()
    if context:
        torch.testing.assert_close(plain, want_plain, rtol=1e-11, atol=1e-12)
        loss, want_loss = loss + (plain * probe_plain).sum(), want_loss + (want_plain * probe_plain).sum()
    else:
        assert plain is None
    inputs = [*leaves, p, mu]
    for got, expected in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(want_loss, inputs)):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-9)
    if kind in DROPPED:
        sums = scores.graph().weight.sum(-1)
        assert sums.max() > 1.1 and (sums == 0).any()
        with pytest.raises(ValueError, match="tiled backend takes no scores with kept="):
            tiled(scores, 1.5, 0.2)


@pytest.mark.parametrize(
    "gap, dtype", [*((x, torch.float32) for x in (30.0, 104.0, 1e4)), (400.0, torch.float64)]
)
def test_dropout_may_leave_weights_that_count_as_none(gap, dtype):
    """The edge that holds nearly all of a query's attention is dropped; what is left is below the floor."""
    x = dict(query=[[1.0, 0.0], [0.5, 1.0]], key=[[0.0, 0.0], [-gap, 0.0]], value=[[1.0, 2.0], [3.0, -1.0]])
    x = {name: torch.tensor(rows, dtype=dtype)[None, None] for name, rows in x.items()}
    kept = torch.tensor([[[[False, True], [True, True]]]])
    scores, leaves = on_leaves(AttentionScores(**x, scale=1.0, kept=kept, dropout=0.1, causal=True))
    for numbers in product((1.05, 2.0, 2.95), (0.0, 0.1)):
        p, mu = (torch.tensor(x, dtype=dtype, requires_grad=True) for x in numbers)
        results = []
        for out in (fused_step(scores, p, 2 * mu / p)[0], dense(scores, p, mu, "sum")[0]):
            results.append([out, *torch.autograd.grad(out.sum(), [*leaves, p, mu])])
        for got, want in zip(*results):
            assert got.isfinite().all()
            if gap > 44:
                torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "step, kind, degree, p",
    both(["encoder, bool mask", *ROTATED], degree=["sum", "mean"], p=[1.6, 2.3]),
)
def test_gradcheck(step, kind, degree, p):
    """With respect to queries and to the features of their nodes separately, where they differ."""
    scores, leaves = on_leaves(random_scores(2, **SMALL, **ALL[kind]))
    assert len(leaves) == (4 if "rotated" in kind else 3)

    def run(p, mu, *leaves):
        return STEPS[step](moved(scores, leaves), p, 2 * mu / p, degree, True)

    assert torch.autograd.gradcheck(run, [number(p), number(0.3), *leaves], fast_mode=True)


@pytest.mark.parametrize(
    "step, causal, dtype, rotated",
    pairwise_params(
        step=STEPS, causal=[False, True], dtype=[torch.bfloat16, torch.float16], rotated=[False, True]
    ),
)
def test_half_precision_accumulates_in_single(step, causal, dtype, rotated, monkeypatch):
    skip_without_library(step == "tiled")
    monkeypatch.setattr("adapters.kernels.strips.ROWS", 16)
    scores = random_scores(4, n=40, m=300, d=8, causal=causal, dtype=dtype, metric=False, rotated=rotated)
    step, (scores, leaves) = STEPS[step], on_leaves(scores)
    wide, wide_leaves = on_leaves(scores.wide())
    got, want = step(scores, 1.5, 0.2, context=True), step(wide, 1.5, 0.2, context=True)
    for g, w in zip(got, want):
        assert g.dtype == dtype
        assert torch.equal(g, w.to(dtype))  # rounded once, at the end
    probe = torch.randn_like(want[0]).to(dtype)
    grads = (
        torch.autograd.grad(got[0], leaves, probe),
        torch.autograd.grad(want[0], wide_leaves, probe.float()),
    )
    for g, w in zip(*grads):
        assert g.dtype == dtype and torch.equal(g, w.to(dtype))


@pytest.mark.parametrize(
    "step, causal, dtype, mu",
    pairwise_params(
        step=STEPS, causal=[False, True], dtype=[torch.float64, torch.float32, torch.bfloat16], mu=[0.0, 0.1]
    ),
)
@pytest.mark.parametrize("p", [1.2, 6.0])
def test_finite_where_careless_formulas_are_not(step, causal, dtype, mu, p):
    ones = torch.ones(1, 2, 4, 3, dtype=dtype)
    blind = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    blind[:, :, 1] = blind[..., 2] = False
    noise = torch.randn(1, 2, 4, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    other, one_head = dict(query=noise, key=noise, value=noise.flip(2)), torch.eye(3, dtype=dtype)
    for name, made in {
        "duplicates": dict(query=ones, key=ones, value=ones),
        "duplicates, one-hot": dict(query=ones, key=ones, value=ones, mask=torch.eye(4).bool()),
        "nearly duplicates": dict(query=ones, key=noise, value=ones * (1 + 1e-4)),
        "zeros": dict(query=0 * ones, key=noise, value=0 * ones),
        "peaked": other | dict(query=100 * noise),
        "huge": other | dict(value=1000 * noise),
        "a head without effect": other | dict(metric=torch.stack([one_head, 0 * one_head])),
        "blind": other | dict(mask=blind),
        "nothing visible": other | dict(mask=torch.zeros(4, 4).bool()),
        "no valid query": other | dict(query_mask=torch.zeros(1, 4).bool()),
    }.items():
        scores, leaves = on_leaves(AttentionScores(**made, causal=causal))
        numbers = [torch.tensor(x, requires_grad=True) for x in (p, 2 * mu / p)]
        for degree in ("sum", "mean"):
            out = STEPS[step](scores, *numbers, degree, True)
            inputs = [*leaves, *numbers[: 1 + (mu > 0)]]
            grads = torch.autograd.grad(sum(x.float().sum() for x in out), inputs)
            assert all(x.isfinite().all() for x in [*out, *grads]), name


@pytest.mark.parametrize(
    "step, causal, exponent",
    pairwise_params(step=STEPS, causal=[False, True], exponent=[1.4, 2.6]),
)
def test_clamped_distances_equal_the_dense_backends(step, causal, exponent):
    """Value i lies next to where query i looks, so that R² of that edge is less than the share of the lengths
    that is its least, and depends on them alone; the query's other edges compete with it, and gradients
    flow."""
    scores = random_scores(5, n=5, m=5, causal=causal)
    weight = scores.graph().weight
    degree = weight.cumsum(-2).diagonal(dim1=-2, dim2=-1) if causal else weight.sum(-2)
    scores, leaves = on_leaves(replace(scores, value=scores.query * (1 + 2e-8) * degree.sqrt()[..., None]))
    p = number(exponent)
    got, want = STEPS[step](scores, p, 0.3)[0], dense(scores, p, 0.3 * p / 2, "sum")[0]
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)
    probe = torch.randn(want.shape, generator=torch.Generator().manual_seed(0), dtype=want.dtype)
    for g, w in zip(torch.autograd.grad(got, leaves, probe), torch.autograd.grad(want, leaves, probe)):
        torch.testing.assert_close(g, w, rtol=1e-8, atol=1e-9 * float(w.abs().max()))


@every_step
def test_without_gradients_under_autocast_and_a_second_backward_pass(step):
    scores, leaves = on_leaves(random_scores(10))
    p = number(1.5)
    out = step(scores, p, 0.2)[0]
    if step is fused_step:
        with pytest.raises(ValueError, match="no gradient for the metric"):
            step(replace(scores, metric=scores.metric.clone().requires_grad_()), p, 0.2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        again, context = step(scores, p, 0.2)
        assert torch.equal(again, out) and context is None
    first, second = (torch.autograd.grad(out.sum(), [*leaves, p], retain_graph=True) for _ in range(2))
    for a, b in zip(first, second):
        torch.testing.assert_close(a, b)
    only_query = replace(scores, key=scores.key.detach(), value=scores.value.detach())
    torch.testing.assert_close(torch.autograd.grad(step(only_query, p, 0.2)[0].sum(), leaves[0])[0], first[0])


def test_the_gradient_of_mu_where_distances_are_0(p=6.5):
    """The sum of a query's weights is 0 then, and its inverse infinite; against the loops over nodes."""
    draw = torch.Generator().manual_seed(0)
    output = torch.randn(2, 3, 6, generator=draw)
    output[1] = 0
    scores = random_scores(15, m=4, metric=False, dtype=torch.float32)
    scores = replace(scores, metric=output @ output.transpose(-1, -2))
    graph = replace(scores, **{x: getattr(scores, x).double() for x in ("query", "key", "value")}).graph()

    def loops(mu):
        scheme = SimpleNamespace(p=p, mu=mu, steps=1, degree="sum")
        return brute_force.pgnn(scheme, graph, output.double()).sum()

    want = (loops(0.1 + 1e-5) - loops(0.1 - 1e-5)) / 2e-5
    for backend in ("dense", "tiled", "sparse"):
        mu = torch.tensor(0.1, requires_grad=True)
        scheme = PGNN(p=p, learn_p=False)
        scheme.fixed_mu = mu
        aggregated = scheme.aggregate_and_context(scores, backend)[0]
        got = (aggregated.transpose(1, 2).flatten(2) @ output.flatten(0, 1)).sum()
        torch.testing.assert_close(torch.autograd.grad(got, mu)[0].double(), want, rtol=1e-4, atol=1e-5)
