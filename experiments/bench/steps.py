"""Attention and one p-Laplacian step at BLIP-base's cross-attention: ours in every form, and the peers."""

from __future__ import annotations

import torch
from torch import Tensor

from adapters import PGNN
from attngraph import AttentionScores
from experiments.bench import peers
from experiments.bench.measure import Run

BASELINE = "attention, softmax(QKᵀ)V"
DEFAULT, DEFAULT_CAUSAL = "ours, default", "ours, default, causal"
TARGETS = {DEFAULT: 2.2, DEFAULT_CAUSAL: 2.5}
WIDTH = 12  # heads whose features make the model's width


def runs(options: dict) -> dict[str, Run]:
    """Forward and backward of everything; gradients for queries, keys, values and p.

    Args:
        options: ``b, h, n, m, d``, ``seed``, ``tiny`` (smallest sizes instead), ``compiled`` (default: yes)
            and ``peers`` (those that need gigabytes at full size, too).
    """
    b, h, n, m, d = (2, 2, 3, 30, 4) if options.get("tiny") else (options[x] for x in "bhnmd")
    draw = torch.Generator().manual_seed(options["seed"])
    query, key, value = (torch.randn(b, h, k, d, generator=draw).requires_grad_() for k in (n, m, m))
    output = torch.randn(h, d, WIDTH * d, generator=draw) / (WIDTH * d) ** 0.5
    metric = output @ output.transpose(-1, -2)
    factor = torch.linalg.cholesky(metric)
    above = torch.randn(b, h, n, d, generator=draw)
    scheme = PGNN(p=1.5, mu=0.1)

    def scores(causal: bool) -> AttentionScores:
        return AttentionScores(query, key, value, causal=causal, metric=metric)

    def both(outputs: Tensor | tuple[Tensor, ...]) -> None:
        outputs = [outputs] if isinstance(outputs, Tensor) else [x for x in outputs if x is not None]
        leaves = [query, key, value, scheme.p_logit.stored]
        torch.autograd.grad(outputs, leaves, [above] * len(outputs), allow_unused=True)

    def dense(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        return scheme(AttentionScores(query, key, value, causal=causal, metric=metric).graph())

    compiled = torch.compile(dense)

    def peer(function) -> Run:
        return lambda: both(function(query, key, value, factor, scheme.p, 2 * scheme.mu / scheme.p))

    ways: dict[str, Run] = {
        BASELINE: lambda: both(peers.attention(query, key, value)),
        "attention, PyTorch's fused": lambda: both(
            torch.nn.functional.scaled_dot_product_attention(query, key, value)
        ),
    }
    for name, causal in ((DEFAULT, False), (DEFAULT_CAUSAL, True)):
        ways[name] = lambda causal=causal: both(scheme.attend(scores(causal), context=False))
    for name, causal in ((DEFAULT, False), (DEFAULT_CAUSAL, True)):
        ways[f"{name}, and MV"] = lambda causal=causal: both(scheme.attend(scores(causal)))
    for name, causal in (("", False), (", causal", True)):
        ways |= {
            f"ours, dense backend{name}": lambda causal=causal: both(dense(query, key, value, causal)),
            f"ours, tiled{name}": lambda causal=causal: both(
                scheme.attend(scores(causal), "tiled", context=False)
            ),
        }
        if options.get("compiled", True):
            ways[f"ours, dense backend compiled{name}"] = lambda causal=causal: both(
                compiled(query, key, value, causal)
            )
    ways["(N1+N2)²×d, pooled to 24 tokens"] = peer(peers.pooled_square)
    if options.get("peers"):
        ways["ours, sparse backend, top-k 16"] = lambda: both(
            scheme(scores(False).graph().sparsify(top_k=16), "sparse")
        )
        ways["per edge (PyG: gather, norm, scatter)"] = peer(peers.per_edge)
        ways["(N1+N2)²×d"] = peer(peers.square)
    return ways
