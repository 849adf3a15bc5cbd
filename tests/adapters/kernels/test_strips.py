"""The step in strips of queries, beside the contract: degrees, threads, NaN, and its operators."""

from dataclasses import replace

import pytest
import torch

from attngraph import AttentionScores
from attngraph.adapters import PGNN
from attngraph.adapters.kernels import step_of, strip_step
from attngraph.native.library import VARIABLE, library
from tests.attngraph.scores_cases import dense, on_leaves, random_scores, single

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler when attngraph was installed")


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
    strips = PGNN().aggregate_and_context(scores, "tiled")
    assert all(torch.equal(a, b) for a, b in zip(strips, strip_step(scores, 1.5, 0.2 / 1.5, context=True)))
    monkeypatch.setenv(VARIABLE, "eager")
    assert step_of("tiled", scores) is None
    for a, b in zip(strips, PGNN().aggregate_and_context(scores, "tiled")):
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
