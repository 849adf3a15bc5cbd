"""What the kernels hold in memory: no copies of queries, keys and values; a tiled step never all edges."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adapters.kernels import fused_step, tiled_step
from attngraph import AttentionScores
from tests.adapters.kernels.test_step import every_step, number
from tests.attngraph.scores_cases import on_leaves, random_scores


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Several blocks of heads, and several tiles per head."""
    monkeypatch.setattr("adapters.kernels.fused.BLOCK", 100)
    monkeypatch.setattr("adapters.kernels.tiled.ROWS", 2)
    monkeypatch.setattr("adapters.kernels.tiled.TILE", 10)


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


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rotated", [False, True])
def test_tiles_never_hold_all_edges(causal, rotated, monkeypatch):
    monkeypatch.setattr("adapters.kernels.tiled.ROWS", 16)
    monkeypatch.setattr("adapters.kernels.tiled.TILE", 256)
    scores, leaves = on_leaves(
        random_scores(13, b=1, h=1, n=128, d=4, triangular=causal, m=128, causal=causal, rotated=rotated)
    )
    with LargestTensor() as largest:
        out = tiled_step(scores, number(1.5), 0.2, context=True)
        torch.autograd.grad(sum(x.sum() for x in out), leaves)
    assert 128 * 4 <= largest.elements <= 1024 < 128 * 128


def strided_scores(seed: int = 15, causal: bool = False) -> tuple[AttentionScores, list[torch.Tensor]]:
    """Scores whose queries, keys and values are views of projections ``(b, n, h·d)``, as models give them."""
    scores = random_scores(seed, n=6, m=9, d=4, causal=causal)
    leaves = [
        x.transpose(1, 2).contiguous().requires_grad_() for x in (scores.query, scores.key, scores.value)
    ]
    query, key, value = (x.transpose(1, 2) for x in leaves)
    assert not key.is_contiguous()
    return replace(scores, query=query, key=key, value=value), leaves


@every_step
@pytest.mark.parametrize("causal", [False, True])
def test_no_copies_of_queries_keys_and_values_are_kept(step, causal):
    """What is saved for the backward pass shares the memory of the inputs, strided as it is, or is small."""
    scores, leaves = strided_scores(causal=causal)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        out = step(scores, number(1.5), 0.2)[0]
    inputs = {x.untyped_storage().data_ptr() for x in leaves}
    *_, m, d = scores.shape
    elsewhere = [x for x in saved if x.untyped_storage().data_ptr() not in inputs]
    value_g = (scores.value @ scores.metric).flatten(0, 1)  # the only array of such a size
    copies = [x for x in elsewhere if x.shape[-2:] == (m, d)]
    assert len(copies) == (step is fused_step) and all(torch.allclose(x, value_g) for x in copies)
    assert {x.untyped_storage().data_ptr() for x in saved} >= inputs
    plain = replace(scores, **{x: getattr(scores, x).contiguous() for x in ("query", "key", "value")})
    want = step(plain, number(1.5), 0.2)[0]
    assert torch.equal(out, want)
    probe = torch.randn_like(out)
    for got, expected in zip(
        torch.autograd.grad(out, leaves, probe), torch.autograd.grad(want, leaves, probe)
    ):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)


@every_step
@pytest.mark.parametrize("causal", [False, True])
def test_nothing_else_holds_what_the_backward_pass_needs(step, causal):
    """So checkpointing and offloading, which take the saved tensors away, free their memory. Distances of a
    head without effect are clamped."""
    scores, _ = strided_scores(causal=causal)
    scores = replace(scores, metric=scores.metric * torch.tensor([1.0, 0.0])[:, None, None])
    want = torch.autograd.grad(*_sum_and_inputs(step, scores))
    away = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: away.append(x.detach().clone()) or len(away) - 1, lambda k: away[k]
    ):
        total, inputs = _sum_and_inputs(step, scores)
    places = {x.untyped_storage().data_ptr() for x in inputs}
    *_, n, m, d = scores.shape
    sizes = {(m, d), (n, m)}  # of what is computed per node or edge: V G, which distances were clamped
    for x in _tensors_of(total.grad_fn):
        memory = x.untyped_storage()
        assert memory.data_ptr() not in places
        assert x.shape[-2:] not in sizes or memory.nbytes() == x.element_size()
    assert len(places) == 3
    for got, expected in zip(torch.autograd.grad(total, inputs), want):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("causal", [False, True])
def test_nothing_else_holds_what_dropout_drew(causal):
    scores, _ = strided_scores(causal=causal)
    b, h, n, m, _ = scores.shape
    scores = replace(scores, kept=torch.rand(b, h, n, m) < 0.8, dropout=0.2)
    want = torch.autograd.grad(*_sum_and_inputs(fused_step, scores))
    away = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: away.append(x.detach().clone()) or len(away) - 1, lambda k: away[k]
    ):
        total, inputs = _sum_and_inputs(fused_step, scores)
    place = scores.kept.untyped_storage().data_ptr()
    assert not [x for x in _tensors_of(total.grad_fn) if x.untyped_storage().data_ptr() == place]
    for got, expected in zip(torch.autograd.grad(total, inputs), want):
        torch.testing.assert_close(got, expected)


def _sum_and_inputs(step, scores: AttentionScores) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The sum of a step's output on leaves of their own, and these."""
    scores, leaves = on_leaves(scores)
    return step(scores, number(1.5), 0.2, context=True)[0].sum(), leaves


def _tensors_of(node) -> list[torch.Tensor]:
    """Tensors that a step's node of the autograd graph holds in attributes, however deep."""
    while not hasattr(node, "settings"):
        node = node.next_functions[0][0]
    stack, tensors, seen = [vars(node)], [], set()
    while stack:
        x = stack.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, torch.Tensor):
            tensors.append(x)
        elif isinstance(x, dict):
            stack.extend(x.values())
        elif isinstance(x, (list, tuple)):
            stack.extend(x)
        elif hasattr(x, "__dict__") and type(x).__module__.startswith(("adapters", "attngraph")):
            stack.append(vars(x))
    assert tensors
    return tensors
