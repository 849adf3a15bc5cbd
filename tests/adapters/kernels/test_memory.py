"""What is kept for the backward pass: no copies of queries, keys and values, and of every scheme how many
bytes."""

from dataclasses import replace

import pytest
import torch

from adapters import SCHEMES
from adapters.kernels import fused_step, tiled_step
from attngraph import AttentionScores
from tests.adapters.kernels.test_step import every_step, number
from tests.attngraph.scores_cases import on_leaves, random_scores


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


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("step, dropped", [(fused_step, False), (fused_step, True), (tiled_step, False)])
def test_nothing_else_holds_what_the_backward_pass_needs(step, dropped, causal):
    """So checkpointing and offloading, which take the saved tensors away, free their memory. Distances of a
    head without effect are clamped."""
    scores, _ = strided_scores(causal=causal)
    b, h, n, m, d = scores.shape
    scores = replace(scores, metric=scores.metric * torch.tensor([1.0, 0.0])[:, None, None])
    if dropped:
        scores = replace(scores, kept=torch.rand(b, h, n, m) < 0.8, dropout=0.2)
    want = torch.autograd.grad(*_sum_and_inputs(step, scores))
    away = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: away.append(x.detach().clone()) or len(away) - 1, lambda k: away[k]
    ):
        total, inputs = _sum_and_inputs(step, scores)
    places = {x.untyped_storage().data_ptr() for x in [*inputs, *([scores.kept] if dropped else [])]}
    sizes = {(m, d), (n, m)}  # of what is computed per node or edge: V G, which distances were clamped
    for x in _tensors_of(total.grad_fn):
        memory = x.untyped_storage()
        assert memory.data_ptr() not in places
        assert x.shape[-2:] not in sizes or memory.nbytes() == x.element_size()
    assert len(places) == 3 + dropped
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


# ---- of every scheme, in cross-attention to a frozen image ---------------------------------------------

B, H, N, M, D = 2, 2, 40, 577, 64  # as in BLIP-base: 577 image nodes, 64 features per head

# Bytes kept, over those of GCN (keys, values and attention weights). pGNN keeps one more array of all edges.
BOUNDS = {"residual": 1.02, "pgnn": 1.32, "appnp": 1.8, "gcnii": 1.8, "tempering": 2.9, "rotated": 4.4}


def kept(name: str, dropout: float) -> int:
    """Bytes that a scheme keeps, everything that several saved tensors share counted once: of scores of views
    of projections ``(b, n, h·d)``, as models give them, of which only that of the queries has gradients."""
    query, key, value = (torch.randn(B, nodes, H * D) for nodes in (N, M, M))
    output = torch.randn(H, D, H * D) / (H * D) ** 0.5
    heads = [x.view(B, -1, H, D).transpose(1, 2) for x in (query.requires_grad_(), key, value)]
    drawn = torch.rand(B, H, N, M) >= dropout if dropout else None
    scores = AttentionScores(*heads, causal=True, metric=output @ output.mT, kept=drawn, dropout=dropout)
    saved, alive = {}, []

    def pack(x: torch.Tensor) -> torch.Tensor:
        memory = x.untyped_storage()
        saved[memory.data_ptr()] = memory.nbytes()
        alive.append(x)  # so that no address is used again
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        SCHEMES[name]().attend(scores)
    return sum(saved.values())


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_bytes_kept_beside_the_vanilla_adapter(dropout):
    """Which under dropout keeps what was drawn besides, a byte for each edge; others keep an array of weights
    more."""
    edges = B * H * N * M
    least = 4 * (B * H * 2 * M * D + edges) + (edges if dropout else 0)
    vanilla = kept("gcn", dropout)
    assert least <= vanilla < 1.02 * least
    for name, bound in BOUNDS.items():
        more = 0.3 if dropout and name not in ("pgnn", "residual") else 0.0
        assert kept(name, dropout) / vanilla <= bound + more, name
