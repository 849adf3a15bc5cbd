"""What the contract of schemes (``contract_on_scores.py``) does not ask of the kernels of a p-Laplacian step:
weights that count as none, clamped distances, what is computed once. The one in C is in single precision."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from attngraph import AttentionScores, norms
from attngraph.adapters import PGNN
from attngraph.adapters.kernels import fused_step, native_step
from attngraph.norms import KeptNorms
from tests.adapters import brute_force
from tests.attngraph.scores_cases import (
    DROPPED,
    KINDS,
    dense,
    on_leaves,
    random_scores,
    single,
    skip_without_library,
    tiled,
)
from tests.pairwise import pairwise_params


def native_in_single(scores, p, residual, degree="sum", context=False):
    """The kernel in C, also for scores in double precision."""
    skip_without_library()
    numbers = (x.float() if isinstance(x, torch.Tensor) else x for x in (p, residual))
    outputs = native_step(single(scores), *numbers, degree, context)
    return tuple(None if x is None else x.to(scores.query.dtype) for x in outputs)


STEPS = {"fused": fused_step, "tiled": tiled, "native": native_in_single}
EXACT = ["fused", "tiled"]
ALL = KINDS | DROPPED
SMALL = dict(b=2, h=1, n=3, m=4, d=2)
ROTATED = ["encoder, rotated", "decoder self, rotated", "decoder, cached and rotated"]
every_step = pytest.mark.parametrize("step", STEPS)


def both(kinds, dropped=tuple(DROPPED), steps=tuple(STEPS), **values) -> list:
    """Parameters of a test: steps on kinds of scores, and all but the tiled one on those under dropout."""
    more = pairwise_params(step=[x for x in steps if x != "tiled"], kind=dropped, **values)
    return pairwise_params(step=steps, kind=kinds, **values) + more


def close(step: str, got, want, rtol: float, atol: float, single: float = 1e-4):
    """Whether results of a step are the reference's; in single precision compared with the largest number."""
    if step == "native":
        rtol, atol = 0, single * max(float(want.detach().abs().max()), 0.01)
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol)


def number(x: float, learned: bool = True) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64, requires_grad=learned)


def moved(scores: AttentionScores, leaves) -> AttentionScores:
    return replace(scores, **dict(zip(("query", "key", "value", "feature"), leaves)))


@pytest.mark.parametrize(
    "kind, known_norms",
    pairwise_params(kind=[kind for kind in KINDS if "decoder" in kind], known_norms=[0, 2, 99]),
)
@torch.no_grad()
def test_a_step_in_c_of_known_weights_and_of_some_known_norms(kind, known_norms):
    """Also of one query, whose products are not BLAS's. Catches weights of another head or padded queries
    among degrees, new values without their norms or with those of others, and what is computed anew."""
    scores = random_scores(1, **KINDS[kind])
    for part in (scores, one_query(scores)):
        want, want_plain = dense(part, 1.2, 0.3, "mean")
        square = norms.square_norm(part.value, part.metric).float()
        known = part.without_query_mask().weight().float()
        ready = single(replace(part, known_weight=known, key=torch.full_like(part.key, torch.nan)))
        kept = KeptNorms(ready.value, [square[..., :known_norms]][: bool(known_norms)])
        ready = replace(ready, kept_norms=kept)
        out, plain = native_in_single(ready, 1.2, 0.5, "mean", True)
        close("native", out, want.float(), 0, 0, single=3e-6)
        close("native", plain, want_plain.float(), 0, 0, single=3e-6)
        torch.testing.assert_close(kept.square, square, rtol=1e-5, atol=1e-5)
        kept.square.add_(9)
        assert not torch.allclose(native_in_single(ready, 1.2, 0.5, "mean")[0], out, rtol=1e-3)
    with torch.enable_grad():  # the backward pass computes weights again: without a key there are none
        assert native_in_single(ready, 1.2, 0.5)[0].isnan().any()


def one_query(scores: AttentionScores) -> AttentionScores:
    """The scores of the last query, which sees all values."""
    last = {name: getattr(scores, name) for name in ("query", "feature") if getattr(scores, name) is not None}
    cut = {name: x[:, :, -1:] for name, x in last.items()}
    rows = None if scores.query_mask is None else scores.query_mask[:, -1:]
    mask = None if scores.mask is None else scores.mask[:, :, -1:]
    return replace(scores, **cut, mask=mask, query_mask=rows, triangular=False)


@pytest.mark.parametrize(
    "step, gap, dtype",
    [
        *(("fused", x, torch.float32) for x in (30.0, 104.0, 1e4)),
        ("fused", 400.0, torch.float64),
        *(("native", x, torch.float32) for x in (30.0, 104.0, 1e4)),
    ],
)
def test_dropout_may_leave_weights_that_count_as_none(step, gap, dtype):
    """The edge that holds nearly all of a query's attention is dropped; what is left is below the floor."""
    x = dict(query=[[1.0, 0.0], [0.5, 1.0]], key=[[0.0, 0.0], [-gap, 0.0]], value=[[1.0, 2.0], [3.0, -1.0]])
    x = {name: torch.tensor(rows, dtype=dtype)[None, None] for name, rows in x.items()}
    kept = torch.tensor([[[[False, True], [True, True]]]])
    scores, leaves = on_leaves(AttentionScores(**x, scale=1.0, kept=kept, dropout=0.1, causal=True))
    for numbers in product((1.05, 2.0, 2.95), (0.0, 0.1)):
        p, mu = (torch.tensor(x, dtype=dtype, requires_grad=True) for x in numbers)
        results = []
        for out in (STEPS[step](scores, p, 2 * mu / p)[0], dense(scores, p, mu, "sum")[0]):
            results.append([out, *torch.autograd.grad(out.sum(), [*leaves, p, mu])])
        for got, want in zip(*results):
            assert got.isfinite().all()
            if gap > 44:
                torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


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
    reference = single(scores) if step == "native" else scores  # where other distances are clamped
    got, want = STEPS[step](scores, p, 0.3)[0], dense(reference, p, 0.3 * p / 2, "sum")[0].double()
    close(step, got, want, 1e-11, 1e-12)
    probe = torch.randn(want.shape, generator=torch.Generator().manual_seed(0), dtype=want.dtype)
    for g, w in zip(torch.autograd.grad(got, leaves, probe), torch.autograd.grad(want, leaves, probe)):
        close(step, g, w, 1e-8, 1e-9 * float(w.abs().max()))


@pytest.mark.parametrize("step", EXACT)
def test_without_gradients_under_autocast_and_a_second_backward_pass(step):
    scores, leaves = on_leaves(random_scores(10))
    p = number(1.5)
    out = STEPS[step](scores, p, 0.2)[0]
    if step == "fused":
        with pytest.raises(ValueError, match="no gradient for the metric"):
            STEPS[step](replace(scores, metric=scores.metric.clone().requires_grad_()), p, 0.2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        again, context = STEPS[step](scores, p, 0.2)
        assert torch.equal(again, out) and context is None
    first, second = (torch.autograd.grad(out.sum(), [*leaves, p], retain_graph=True) for _ in range(2))
    for a, b in zip(first, second):
        torch.testing.assert_close(a, b)
    only_query = replace(scores, key=scores.key.detach(), value=scores.value.detach())
    torch.testing.assert_close(
        torch.autograd.grad(STEPS[step](only_query, p, 0.2)[0].sum(), leaves[0])[0], first[0]
    )


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


@pytest.mark.parametrize(
    "step, kind, metric",
    pairwise_params(
        step=["fused", "native"],
        kind=["decoder cross, padded", "encoder", "decoder cross, dropped"],
        metric=[True, False],
    ),
)
def test_norms_of_values_are_computed_once_for_each_picture(step, kind, metric, monkeypatch):
    """Of three examples the third looks at the first one's picture. Gradients of values need V G of all."""
    scores = random_scores(2, b=3, metric=metric, **ALL[kind])
    key, value = scores.key[[0, 1, 0]], scores.value[[0, 1, 0]]
    scores, picture = replace(scores, key=key, value=value), torch.tensor([0, 1, 0])
    examples, square_norm = [], norms.square_norm
    monkeypatch.setattr(norms, "square_norm", lambda v, g: examples.append(len(v)) or square_norm(v, g))
    found = {}
    for known in (False, True):
        for trained in (False, True):
            examples.clear()
            query, own = scores.query.clone().requires_grad_(), value.clone().requires_grad_(trained)
            p = number(1.4)
            given = replace(scores, query=query, value=own, picture=picture if known else None)
            out, context = STEPS[step](given, p, 0.2, context=True)
            of_all = step == "fused" and trained and metric
            assert examples == ([2] if known and not of_all else [])
            (out.sin().sum() + context.sin().sum()).backward()
            found[known, trained] = out, query.grad, p.grad
    for got in found.values():
        for x, want in zip(got, found[False, False]):
            close(step, x, want, 1e-12, 1e-13, single=2e-6)
