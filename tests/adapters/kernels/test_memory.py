"""What is kept for the backward pass: nothing beside what autograd holds, and of every scheme how many
bytes."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from attngraph import AttentionScores
from attngraph.adapters import GCN, PGNN, SCHEMES
from attngraph.adapters.kernels import fused_step, strip_step
from attngraph.native.library import VARIABLE, library
from tests.attngraph.scores_cases import on_leaves, random_scores, single, skip_without_library, tiled
from tests.pairwise import pairwise_params

RUNS = {
    "gcn": lambda scores: GCN().aggregate_and_context(scores, "tiled")[0],
    "two steps of pgnn": lambda scores: PGNN(steps=2).double().aggregate_and_context(scores, "tiled")[0],
    "one step of pgnn": lambda scores: tiled(scores, 1.5, 0.2, context=True)[0],
    "strips": lambda scores: strip_step(single(scores), 1.5, 0.2, context=True)[0].double(),
    "fused": lambda scores: fused_step(scores, 1.5, 0.2, context=True)[0],
    "fused, dropped": lambda scores: fused_step(scores, 1.5, 0.2, context=True)[0],
}


@pytest.mark.parametrize("run, causal", pairwise_params(run=RUNS, causal=[False, True]))
def test_autograd_alone_holds_what_the_backward_pass_needs(run, causal, monkeypatch):
    """So checkpointing and offloading, which take the saved tensors away, free their memory; and no cycle of
    references waits for the garbage collector. Distances of a head without effect are clamped."""
    skip_without_library(run == "strips")
    monkeypatch.setattr("attngraph.backends.chunks.MOST", 2)
    scores, leaves = on_leaves(random_scores(8, causal=causal, dropped="dropped" in run))
    leaves.append(torch.tensor(0.6, dtype=torch.float64, requires_grad=True))  # a scale that is trained
    metric = scores.metric * torch.tensor([1.0, 0.0])[:, None, None]
    away, alive = [], []

    def total() -> torch.Tensor:
        inputs = [x * 1 for x in leaves]
        made = dict(zip(("query", "key", "value", "scale"), inputs), kept=scores.kept, metric=metric)
        return RUNS[run](replace(scores, **made)).sum()

    def take_away(x: torch.Tensor) -> int:
        if x.untyped_storage().data_ptr() != metric.untyped_storage().data_ptr() and x is not scores.kept:
            alive.append(weakref.ref(x))
        away.append(x.detach().clone())
        return len(away) - 1

    want = torch.autograd.grad(total(), leaves, allow_unused=True)
    gc.collect()
    gc.disable()
    try:
        with torch.autograd.graph.saved_tensors_hooks(take_away, lambda k: away[k]):
            out = total()
        assert len(alive) > 3 and not [x for x in alive if x() is not None]
        for got, expected in zip(torch.autograd.grad(out, leaves, allow_unused=True), want, strict=True):
            if expected is not None:
                torch.testing.assert_close(got, expected)
    finally:
        gc.enable()


# ---- of every scheme, in cross-attention to a frozen image ---------------------------------------------

B, H, N, M, D = 2, 2, 40, 577, 64  # as in BLIP-base: 577 image nodes, 64 features per head

# Bytes kept, over those of GCN (keys, values and attention weights). pGNN keeps one more array of all edges;
# none where it runs in C.
BOUNDS = {"residual": 1.02, "pgnn": 1.32, "appnp": 1.8, "gcnii": 1.8, "tempering": 2.9, "rotated": 4.4}


def kept(name: str, dropout: float, backend: str = "dense") -> int:
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
        SCHEMES[name]().aggregate_and_context(scores, backend)
    return sum(saved.values())


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_bytes_kept_beside_the_vanilla_adapter(dropout, monkeypatch):
    """Which under dropout keeps what was drawn besides, a byte for each edge; others keep an array of weights
    more."""
    edges = B * H * N * M
    least = 4 * (B * H * 2 * M * D + edges) + (edges if dropout else 0)
    vanilla = kept("gcn", dropout)
    assert least <= vanilla < 1.02 * least
    if library() is not None:
        assert kept("pgnn", dropout) < 0.84 * vanilla
    if not dropout and library() is not None:  # keys, values, queries and a few numbers for each
        assert kept("pgnn", 0.0, "tiled") < 1.05 * 4 * B * H * (2 * M + 3 * N) * D
    monkeypatch.setenv(VARIABLE, "eager")
    for name, bound in BOUNDS.items():
        more = 0.3 if dropout and name not in ("pgnn", "residual") else 0.0
        assert kept(name, dropout) / vanilla <= bound + more, name
