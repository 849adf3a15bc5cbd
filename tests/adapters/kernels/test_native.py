"""The kernel in C: what memory and threads it is given changes no number, and when it is chosen."""

import resource
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import torch
from torch import Tensor

from attngraph import AttentionScores
from attngraph.adapters.kernels import fused_step, native, native_step, step_of, strip_step
from attngraph.backends import BACKENDS
from attngraph.native import library
from tests.adapters.kernels.test_step import ALL, single
from tests.attngraph.scores_cases import on_leaves, random_scores
from tests.pairwise import pairwise_params

needs_library = pytest.mark.skipif(
    library.library() is None, reason="no C compiler when attngraph was installed"
)

# products: of edges by BLAS, of nodes by BLAS, all in own code with rows and columns left over; one query
SIZES = [dict(n=40, m=577, d=64), dict(n=33, m=128, d=3), dict(n=18, m=21, d=24)]
SIZES += [dict(n=1, m=9, d=5), dict(n=1, m=21, d=88)]


def results(scores, context: bool = True) -> list[Tensor]:
    """Outputs, and gradients of the scores' features, p and the residual."""
    scores, leaves = on_leaves(scores)
    numbers = [torch.tensor(x, requires_grad=True) for x in (1.6, 0.2)]
    outputs = [x for x in native_step(scores, *numbers, "mean", context) if x is not None]
    draw = torch.Generator().manual_seed(0)
    probes = [torch.randn(x.shape, generator=draw).to(x.dtype) for x in outputs]
    return [*outputs, *torch.autograd.grad(outputs, [*leaves, *numbers], probes)]


def in_memory_as(kind: str, x: Tensor) -> Tensor:
    """The same numbers, ``(b, h, n, d)``, otherwise in memory."""
    b, h, n, d = x.shape
    if kind == "heads last":  # as a projection gives them
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if kind == "a part":  # as one projection of queries, keys and values gives them
        return torch.stack([x.transpose(1, 2), torch.full((b, n, h, d), 7.0)], 2)[:, :, 0].transpose(1, 2)
    if kind == "columns first":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    return x.flip(0)[:1].expand(b, h, n, d)


@needs_library
@pytest.mark.parametrize("kind", ["heads last", "a part", "columns first", "one example for all"])
def test_where_features_lie_in_memory_does_not_matter(kind):
    """Nor where their gradients lie, and those of the outputs."""
    scores = single(random_scores(3, n=6, m=11, d=4, causal=True, rotated=True))
    names = ("query", "key", "value", "feature")
    parts = {x: in_memory_as(kind, getattr(scores, x)) for x in names}
    expected = results(replace(scores, **{x: part.contiguous() for x, part in parts.items()}))

    leaves = {x: part.requires_grad_() if part.is_leaf else part for x, part in parts.items()}
    numbers = [torch.tensor(x, requires_grad=True) for x in (1.6, 0.2)]
    outputs = native_step(replace(scores, **leaves), *numbers, "mean", True)
    draw = torch.Generator().manual_seed(0)
    probes = [in_memory_as("a part", torch.randn(x.shape, generator=draw)) for x in outputs]
    grads = torch.autograd.grad(outputs, [*leaves.values(), *numbers], probes)
    for got, want in zip([*outputs, *grads], expected, strict=True):
        assert torch.equal(got, want)


@needs_library
def test_outputs_become_rows_of_all_heads_without_a_copy():
    for x in native_step(single(random_scores(3)), 1.5, 0.2, context=True):
        assert x.transpose(1, 2).is_contiguous()


@needs_library
@pytest.mark.parametrize("kind", ["encoder, bool mask, dropped", "decoder self, padded"])
def test_the_number_of_threads_changes_no_bit(kind):
    scores, before = single(random_scores(4, b=5, h=3, n=9, m=30, d=8, **ALL[kind])), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(results(scores))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


@needs_library
@pytest.mark.parametrize("kind", ALL)
def test_what_an_earlier_call_left_in_memory_does_not_matter(kind):
    """Of a thread's memory, which all calls use, every number is written before it is read."""
    scores = single(random_scores(4, n=9, m=12, d=4, **ALL[kind]))
    before = results(scores)
    nothing = torch.full((1, 1, 40, 40), torch.nan)
    assert all(x.isnan().any() for x in results(AttentionScores(nothing, nothing, nothing, causal=True)))
    for got, want in zip(results(scores), before, strict=True):
        assert torch.equal(got, want)


@needs_library
@pytest.mark.parametrize(
    "kind, p", pairwise_params(kind=["encoder", "decoder self", "decoder, cached"], p=[1.2, 2.0, 5.0])
)
@pytest.mark.parametrize("size", SIZES)
def test_shapes_of_models(kind, p, size, monkeypatch):
    """Rows that end within a vector, or that would lie a power of two apart; one query, one feature; a last
    strip that is shorter."""
    monkeypatch.setattr("attngraph.adapters.kernels.strips.ROWS", 16)
    exact = random_scores(5, b=1, **size, **ALL[kind])
    found = []
    for step, scores in ((fused_step, exact), (native_step, single(exact)), (strip_step, single(exact))):
        scores, leaves = on_leaves(scores)
        outputs = step(scores, p, 0.2, context=True)
        draw = torch.Generator().manual_seed(0)
        probes = [torch.randn(x.shape, generator=draw).to(x.dtype) for x in outputs]
        found.append([*outputs, *torch.autograd.grad(outputs, leaves, probes)])
    for want, *others in zip(*found, strict=True):
        most = max(1.0, float(want.detach().abs().max()))
        for got in others:
            torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-5 * most)


@needs_library
def test_what_depends_on_a_number_that_is_nan_is_nan():
    """Also what depends on it through distances only, whose logarithm hides it; and nothing that came before
    it."""
    for what in ("query", "key", "value", "feature", "metric"):
        for residual in (0.0, 0.2):
            scores = single(random_scores(6, n=5, m=9, causal=True, rotated=True))
            x = getattr(scores, what).clone()
            x.flatten(0, -3)[0, 1, 0] = float("nan")
            scores = replace(scores, **{what: x})
            got, want = (step(scores, 1.5, residual, context=True) for step in (native_step, fused_step))
            for a, b in zip(got, want):
                assert torch.equal(a.isnan(), b.isnan())
            assert got[0].isnan().any()


@needs_library
def test_without_gradients_and_a_second_backward_pass():
    scores, leaves = on_leaves(single(random_scores(10)))
    p = torch.tensor(1.5, requires_grad=True)
    out = native_step(scores, p, 0.2)[0]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        again, context = native_step(scores, p, 0.2)
    assert torch.equal(again, out) and context is None and not again.requires_grad
    first, second = (torch.autograd.grad(out.sum(), [*leaves, p], retain_graph=True) for _ in range(2))
    for a, b in zip(first, second):
        assert torch.equal(a, b)
    only_query = replace(scores, key=scores.key.detach(), value=scores.value.detach())
    out = native_step(only_query, p, 0.2)[0]
    assert torch.equal(torch.autograd.grad(out.sum(), leaves[0])[0], first[0])


@needs_library
@pytest.mark.parametrize("kind", ["encoder", "decoder self, padded", "decoder, cached, rotated and dropped"])
@pytest.mark.parametrize("known", [False, True])
def test_operators(kind, known):
    """Their schemas and what they say of the shapes of their results; and squared norms of values that are
    given are those that are computed."""
    scores = single(random_scores(7, b=2, h=2, n=4, m=4 if "self" in kind else 6, d=3, **ALL[kind]))
    attention = native._Attention.of(native.StepCall(scores, "mean", True, True))
    features = scores.query, scores.key, scores.value, scores.feature
    numbers = torch.tensor(1.5), torch.tensor(0.2)
    outputs = torch.ops.attngraph.p_step.default(*features, *numbers, *attention)
    if known:
        attention = attention._replace(norm_v=outputs[-1])
        again = torch.ops.attngraph.p_step.default(*features, *numbers, *attention)
        assert torch.equal(again[0], outputs[0]) and again[-1].numel() == 0
        outputs = again
    arguments = (*features, *numbers, *attention)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.attngraph.p_step.default, arguments, test_utils=tests)
    out, context, *kept = outputs
    torch.library.opcheck(
        torch.ops.attngraph.p_step_backward.default,
        (*arguments, *kept, torch.ones_like(out), torch.ones_like(context), True, True),
        test_utils=tests,
    )


# ---- which step is taken -------------------------------------------------------------------------------


@needs_library
def test_backends_and_the_steps_they_take(monkeypatch):
    scores = single(random_scores(8))
    assert [step_of(x, scores) for x in BACKENDS] == [native_step, None, strip_step]
    for others in (random_scores(8), replace(scores, key=scores.key.to("meta"))):
        assert [step_of(x, others) for x in BACKENDS] == [fused_step, None, None]
    monkeypatch.setenv(library.VARIABLE, "eager")
    assert [step_of(x, scores) for x in BACKENDS] == [fused_step, None, None]
    with pytest.raises(ValueError, match="backend must be one of"):
        step_of("flash", scores)


@needs_library
def test_gradients_of_windows_that_overlap():
    """``empty_like`` gives no rows one after another for these."""
    base, (b, h, m, d) = torch.randn(400), (2, 2, 3, 4)
    parts = {name: base.as_strided((b, h, m, d), (50, 1, d, 1), 3) for name in ("key", "value", "feature")}
    query, found = torch.randn(b, h, m, d), []
    for change in (torch.Tensor.clone, torch.Tensor.contiguous):
        given = {name: x if change is torch.Tensor.clone else change(x) for name, x in parts.items()}
        leaves = [x.detach().requires_grad_() for x in given.values()]
        out, _ = native_step(AttentionScores(query, **dict(zip(given, leaves))), 1.5, 0.2)
        found.append(torch.autograd.grad(out.square().sum(), leaves))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


@needs_library
def test_a_mask_that_is_no_number_hides():
    """As in all other backends."""
    scores = single(random_scores(3, n=6, m=11, d=4))
    mask = torch.zeros(11)
    mask[4] = torch.nan
    torch.testing.assert_close(
        native_step(replace(scores, mask=mask), 1.5, 0.2)[0],
        native_step(replace(scores, mask=~mask.isnan()), 1.5, 0.2)[0],
    )


def used() -> int:
    """Bytes of memory of this process."""
    if not Path("/proc/self/statm").is_file():
        pytest.skip("memory is read from /proc")
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def step_of_size(nodes: int) -> None:
    """Forward and backward, of one head: this thread does it alone."""
    query = torch.randn(1, 1, nodes, 4, requires_grad=True)
    native_step(AttentionScores(query, query, query), 1.5, 0.2)[0].sum().backward()


@needs_library
def test_threads_that_end_leave_no_memory():
    """Each has its own room to work in."""

    def some_threads():
        for _ in range(10):
            thread = Thread(target=step_of_size, args=(700,))
            thread.start()
            thread.join()

    some_threads()
    before = used()
    some_threads()
    assert used() - before < 40e6  # a room has 8 MB


@needs_library
def test_a_thread_keeps_a_room_of_bounded_size():
    """Of a thread that has no room yet: the backward pass takes 4 arrays of all edges."""
    found = []

    def run():
        step_of_size(700)
        before = used()
        step_of_size(3300)
        found.append(used() - before)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    assert 4 * 4 * 3300**2 > 170e6 and found[0] < 140e6
