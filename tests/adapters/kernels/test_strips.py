"""The step in strips of queries, in single precision, against the dense backend in double precision."""

from dataclasses import replace

import pytest
import torch

from attngraph import AttentionScores
from attngraph.adapters import PGNN
from attngraph.adapters.kernels import covered, strip_step
from attngraph.native.library import VARIABLE, library
from tests.attngraph.scores_cases import KINDS, dense, on_leaves, random_scores, single
from tests.pairwise import pairwise_params

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler when attngraph was installed")
MORE_KINDS = {
    "triangle without order": dict(triangular=True, padded=True),
    "triangle, more values": dict(causal=True, past=True, wide=2),
    "triangle, queries that see nothing": dict(causal=True, padded=True, wide=-2),
}
ALL = KINDS | MORE_KINDS


def scores_of(kind: str, n: int = 5, **more) -> AttentionScores:
    options = dict(ALL[kind])
    if "wide" not in options:
        return random_scores(1, n=n, **options, **more)
    return replace(random_scores(1, n=n, m=n + options.pop("wide"), **options, **more), triangular=True)


def results(step, scores: AttentionScores, p: float, mu: float, degree: str, context: bool) -> list:
    """What a step returns, and the gradients of sums of it with drawn factors."""
    scores, leaves = on_leaves(scores)
    numbers = [torch.tensor(x, dtype=scores.query.dtype, requires_grad=True) for x in (p, mu)]
    outputs = [x for x in step(scores, *numbers, degree, context) if x is not None]
    draw = torch.Generator().manual_seed(0)
    probes = [torch.randn(x.shape, generator=draw, dtype=torch.float64).to(x.dtype) for x in outputs]
    return [*outputs, *torch.autograd.grad(outputs, [*leaves, *numbers], probes)]


def in_strips(scores, p, mu, degree, context):
    return strip_step(scores, p, 2 * mu / p, degree, context)


def reference(scores, p, mu, degree, context):
    return dense(scores, p, mu, degree)[: 2 if context else 1]


def close(got: list, want: list, error: float) -> None:
    """Each up to an error relative to the largest number of its tensor; ten times that for p and μ, sums over
    all edges of both signs."""
    assert len(got) == len(want)
    for g, w in zip(got, want):
        bound = (error if w.dim() else 10 * error) * max(float(w.detach().abs().max()), 0.1)
        torch.testing.assert_close(g.double(), w, rtol=0, atol=bound)


@pytest.mark.parametrize(
    "kind, degree, numbers, context, rows",
    pairwise_params(
        kind=ALL,
        degree=["sum", "mean"],
        numbers=[(1.5, 0.1), (2.6, 0.5), (1.2, 0.0)],
        context=[False, True],
        rows=[2, 64],
    ),
)
def test_equals_the_dense_backend(kind, degree, numbers, context, rows, monkeypatch):
    """Also with the last strip shorter than the others, and with one strip for all."""
    monkeypatch.setattr("attngraph.adapters.kernels.strips.ROWS", rows)
    for more in ({}, dict(n=37, d=16)):
        scores = scores_of(kind, **more)
        assert covered(single(scores)) and not covered(scores)
        got = results(in_strips, single(scores), *numbers, degree, context)
        close(got, results(reference, scores, *numbers, degree, context), 3e-5)


@pytest.mark.parametrize("shape", [(2, 1, 5, 1), (1, 1, 1, 7), (7, 5), "transposed", "half"])
def test_masks_of_any_form(shape):
    """Numbers shared between examples, queries or values, and in another order in memory."""
    draw = torch.Generator().manual_seed(0)
    mask = torch.randn(2, 1, 7, 5, generator=draw).mT if isinstance(shape, str) or shape == (7, 5) else None
    if mask is None:
        mask = torch.randn(shape, generator=draw)
    mask = mask[0, 0] if shape == (7, 5) else mask
    mask = mask.half() if shape == "half" else mask
    for made in (mask, mask > -0.5):
        for causal in (False, True):
            scores = replace(random_scores(2, causal=causal), mask=made)
            got, want = (
                results(step, x, 1.5, 0.1, "mean", True)
                for step, x in ((in_strips, single(scores)), (reference, scores))
            )
            close(got, want, 2e-5)


def test_degrees_are_taken_back_in_double_precision():
    """The first value has hardly any of the first queries' attention and nearly all of the later ones'. What
    the early degree lost when later ones are taken back would be a tenth of it in single precision."""
    n = 400
    scores = random_scores(3, b=1, h=1, n=n, m=20, d=8, causal=True)
    query, key = scores.query.clone(), scores.key.clone()
    key[..., 0, :], key[..., :, 0] = 0, 0
    key[..., 0, 0], query[..., : n // 2, 0], query[..., n // 2 :, 0] = 3, -9, 9
    scores = replace(scores, query=query, key=key)
    got, want = (
        results(step, x, 1.5, 0.1, "sum", False)
        for step, x in ((in_strips, single(scores)), (reference, scores))
    )
    early = [x[..., : n // 2, :] for x in (got[1], want[1])]
    close(early[:1], early[1:], 1e-5)


@pytest.mark.parametrize("h, causal", [(3, False), (3, True), (1, False), (1, True)])
def test_threads_change_no_number(h, causal, monkeypatch):
    monkeypatch.setattr("attngraph.adapters.kernels.strips.ROWS", 64)
    scores = single(random_scores(4, b=1, h=h, n=150, m=170, d=32, causal=causal))
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            found.append(results(in_strips, scores, 1.5, 0.1, "sum", True))
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others))


@pytest.mark.parametrize("causal", [False, True])
def test_a_number_that_is_none_stays_none(causal):
    """In a triangle, queries before do not see it."""
    scores = single(random_scores(5, causal=causal, triangular=True))
    scores.query[0, 0, 1, 0] = torch.nan
    nan = strip_step(scores, 1.5, 0.2)[0].isnan().all(-1)
    assert nan[0, 0, 1] and not nan[0, 1].any() and not nan[1].any()


def test_without_the_library(monkeypatch):
    """The tiled backend then takes chunks: the same numbers."""
    scores = single(random_scores(6, padded=True, causal=True))
    native = PGNN().aggregate_and_context(scores, "tiled")
    assert all(torch.equal(a, b) for a, b in zip(native, strip_step(scores, 1.5, 0.2 / 1.5, context=True)))
    monkeypatch.setenv(VARIABLE, "eager")
    assert not covered(scores)
    for a, b in zip(native, PGNN().aggregate_and_context(scores, "tiled")):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal, context", [(False, True), (True, False)])
def test_the_operators_are_what_they_say(causal, context):
    """Shapes and types without numbers, for tracing; nothing that is given is written to."""
    scores = single(random_scores(7, causal=causal, padded=True, past=causal))
    calls = []

    class Watched(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.namespace == "attngraph":
                calls.append((function, args))
            return function(*args, **(kwargs or {}))

    with Watched():
        results(in_strips, scores, 1.5, 0.1, "mean", context)
    assert [function.name() for function, _ in calls] == [
        "attngraph::p_strips",
        "attngraph::p_strips_backward",
    ]
    for function, args in calls:
        args = tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in args)
        torch.library.opcheck(function, args)
