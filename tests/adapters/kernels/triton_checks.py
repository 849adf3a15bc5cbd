"""What test_triton.py runs in a process of its own, in Triton's interpreter, which is chosen when Triton is
imported."""

import os
from dataclasses import replace

import pytest
import torch

from attngraph.adapters.kernels import _triton_launch, fused_step, gpu
from tests.adapters.contract_on_scores import ROTATED, awkward_scores
from tests.adapters.kernels.test_step import number
from tests.attngraph.scores_cases import KINDS, dense, on_leaves, random_scores
from tests.pairwise import pairwise_params

assert os.environ.get("TRITON_INTERPRET") == "1"
STEP = gpu.triton_step
SIZES = dict(h=1, n=20, m=23, d=5)  # two blocks of queries and of values, the last of them not full
KINDS_HERE = [
    "encoder, bool mask",
    "encoder, padded",
    "decoder cross, padded",
    "decoder, cached",
    *ROTATED[:2],
]


@pytest.fixture(autouse=True)
def every_number_is_written():
    """What kernels read and did not write is NaN; and probes are the same in every run, since a sum over all
    edges, such as the gradient of p, may cancel, and then has few digits."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def single(scores):
    """The scores and their leaves in float32."""
    past = scores.past_degree
    numbers = {
        name: None if x is None else x.detach().float()
        for name in ("query", "key", "value", "feature", "metric")
        for x in [getattr(scores, name)]
    }
    if scores.mask is not None and scores.mask.is_floating_point():
        numbers["mask"] = scores.mask.clamp(min=torch.finfo(torch.float32).min).float()
    past = past if past is None else past._replace(total=past.total.float())
    return on_leaves(replace(scores, past_degree=past, **numbers))


def assert_near(got, want, share=1e-5):
    got, want = got.detach(), want.detach()
    assert (got.double() - want.double()).abs().max() <= share * want.abs().max()


@pytest.mark.parametrize(
    "kind, degree, context, numbers",
    pairwise_params(
        kind=KINDS_HERE, degree=["sum", "mean"], context=[False, True], numbers=[(1.4, 0.1), (2.6, 0.0)]
    ),
)
def test_equals_the_dense_scheme_in_float64(kind, degree, context, numbers):
    """Also with a value that nobody sees, a query that sees nothing, and biases that hide nothing."""
    scores, leaves = on_leaves(random_scores(1, **SIZES, **KINDS[kind]))
    p, residual = number(numbers[0]), number(2 * numbers[1] / numbers[0])
    want, want_context = dense(scores, p, residual * p / 2, degree)
    narrow, narrow_leaves = single(scores)
    assert gpu.covers(narrow)
    narrow_p, narrow_residual = (x.detach().float().requires_grad_() for x in (p, residual))
    got, got_context = STEP(narrow, narrow_p, narrow_residual, degree, context)
    assert_near(got, want)
    probe = torch.randn_like(want), torch.randn_like(want)
    loss, want_loss = (got * probe[0]).sum(), (want * probe[0]).sum()
    if context:
        assert_near(got_context, want_context)
        loss, want_loss = loss + (got_context * probe[1]).sum(), want_loss + (want_context * probe[1]).sum()
    else:
        assert got_context is None
    found = torch.autograd.grad(loss, [*narrow_leaves, narrow_p, narrow_residual])
    wanted = torch.autograd.grad(want_loss, [*leaves, p, residual])
    for each, expected in zip(found, wanted):
        assert_near(each, expected, 1e-4)


def test_a_number_as_a_mask_hides_all_values_of_a_query():
    """Models write -1e4 in half precision; a softmax over nothing else would be even."""
    mask = torch.zeros(1, 1, 3, 4, dtype=torch.float64)
    mask[..., 2, :] = -1e4
    scores = replace(random_scores(6, b=1, n=3, m=4, d=2), mask=mask)
    narrow, _ = single(scores)
    for got, want in zip(STEP(narrow, 1.5, 0.2, "mean", True), dense(scores, 1.5, 0.15, "mean")):
        assert_near(got, want)


@pytest.mark.parametrize(
    "dtype, causal, rotated", [(torch.bfloat16, True, False), (torch.float16, False, True)]
)
def test_half_precision_is_rounded_once(dtype, causal, rotated):
    scores = random_scores(4, **SIZES, causal=causal, dtype=dtype, rotated=rotated, metric=False)
    scores, leaves = on_leaves(scores)
    wide, wide_leaves = on_leaves(scores.wide())
    got, want = STEP(scores, 1.5, 0.2, context=True), STEP(wide, 1.5, 0.2, context=True)
    probe = [torch.randn_like(x).to(dtype) for x in want]
    for x, y in zip(
        [*got, *torch.autograd.grad(got, leaves, probe)],
        [*want, *torch.autograd.grad(want, wide_leaves, [x.float() for x in probe])],
    ):
        assert x.dtype == dtype
        torch.testing.assert_close(x.float(), y, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_heads_a_few_at_a_time(monkeypatch):
    """The carries of a causal graph are then those of these heads."""
    scores, leaves = single(random_scores(3, **SIZES | dict(h=2), **KINDS["decoder, cached and rotated"]))
    results = []
    for room in (_triton_launch.CARRIES, 2 * 23 * 3):
        monkeypatch.setattr(_triton_launch, "CARRIES", room)
        out = STEP(scores, 1.5, 0.2, context=True)
        results.append([*out, *torch.autograd.grad(out[0].square().sum() + out[1].sum(), leaves)])
    for x, y in zip(*results):
        assert torch.equal(x, y)


def test_later_queries_change_nothing_before_them(position=11):
    """In the middle of a block of rows; neither outputs nor, backwards, gradients."""
    scores, leaves = single(random_scores(7, **SIZES, **KINDS["decoder self, rotated"]))
    changed = [torch.cat([x[:, :, :position], -x[:, :, position:]], 2) for x in leaves]
    other = replace(scores, **dict(zip(("query", "key", "value", "feature"), changed)))
    outputs = STEP(scores, 1.5, 0.2, "mean", True)
    for x, y in zip(outputs, STEP(other, 1.5, 0.2, "mean", True)):
        assert torch.equal(x[:, :, :position], y[:, :, :position])
        assert (x[:, :, position:] - y[:, :, position:]).abs().max() > 0.1
    early = sum(x[:, :, :position].square().sum() for x in outputs)
    for grad in torch.autograd.grad(early, leaves):
        assert (grad[:, :, position:] == 0).all() and (grad[:, :, :position] != 0).any()


@pytest.mark.parametrize("causal, mu, p", [(True, 0.0, 1.2), (False, 0.1, 6.0)])
def test_finite_where_careless_formulas_are_not(causal, mu, p):
    for name, scores in awkward_scores(torch.float32).items():
        if scores.causal == causal:
            scores, leaves = on_leaves(scores)
            numbers = [torch.tensor(x, requires_grad=True) for x in (p, 2 * mu / p)]
            out = STEP(scores, *numbers, "sum", True)
            grads = torch.autograd.grad(sum(x.sum() for x in out), [*leaves, *numbers[: 1 + (mu > 0)]])
            assert all(x.isfinite().all() for x in [*out, *grads]), name


@pytest.mark.parametrize("causal", [False, True])
def test_distances_of_0_are_lifted(causal):
    """Value i lies where query i looks: its distance is the least share of the lengths, and has their
    gradient."""
    scores = random_scores(5, n=18, m=18, d=5, causal=causal, metric=False)
    weight = scores.graph().weight
    degree = weight.cumsum(-2).diagonal(dim1=-2, dim2=-1) if causal else weight.sum(-2)
    scores = replace(scores, value=scores.query * degree.sqrt()[..., None])
    results = []
    for step in (STEP, fused_step):
        narrow, leaves = single(scores)
        out = step(narrow, 1.4, 0.3)[0]
        results.append([out, *torch.autograd.grad(out.sum(), leaves)])
    for x, y in zip(*results):
        assert_near(x, y, 1e-3)


def test_second_derivatives_and_strided_inputs():
    """Queries, keys and values as a model's projections leave them; the key's tensor is the value's."""
    draw = torch.Generator().manual_seed(0)
    states = [torch.randn(2, 6, 2, 5, generator=draw, requires_grad=True) for _ in range(2)]
    query, value = (x.transpose(1, 2) for x in states)
    scores = random_scores(0, n=6, m=6, d=5, dtype=torch.float32)
    scores = replace(scores, query=query, key=value, value=value)
    results = []
    for step in (STEP, fused_step):
        loss = step(scores, 1.5, 0.2)[0].square().sum()
        once = torch.autograd.grad(loss, states, retain_graph=True)
        again = torch.autograd.grad(loss, states, create_graph=True)
        results.append([*once, *again, *torch.autograd.grad(again[0].square().sum(), states)])
    for x, y in zip(*results):
        assert_near(x, y, 1e-4)


@pytest.mark.parametrize("kind, context", [("encoder", False), ("decoder self, rotated", True)])
def test_operators(kind, context):
    """Schemas, and shapes, types and strides without data, are those of the operators' results."""
    scores = random_scores(2, n=3, m=4, d=2, dtype=torch.float32, **KINDS[kind])
    numbers = torch.tensor(1.5), torch.tensor(0.2)
    given = (scores.query, scores.key, scores.value, scores.feature, *numbers, scores.mask, scores.query_mask)
    fixed = (scores.metric, None, None, scores.scale, scores.triangular, scores.causal)
    passes = torch.ops.attngraph.p_laplacian_step, torch.ops.attngraph.p_laplacian_step_backward
    torch.library.opcheck(passes[0], (*given, *fixed, context))
    out, attended, *results = passes[0](*given, *fixed, context)
    grads = (out, attended) if context else (out, None)
    torch.library.opcheck(passes[1], (*given, *fixed, *results, *grads, context, True))
