"""Self-attention graphs of long sequences, a tile at a time, against PyTorch's fused attention."""

from __future__ import annotations

import torch

from adapters import PGNN
from attngraph import AttentionScores
from experiments.bench.measure import Run

BASELINE = "attention, PyTorch's fused"
CAUSAL = f"{BASELINE}, causal"
TILED, TILED_CAUSAL = "ours, tiled", "ours, tiled, causal"
TARGET = 5.0
MEMORY_TARGET = 2.0


def runs(options: dict) -> dict[str, Run]:
    """Forward and backward; gradients for queries, keys, values and p.

    Args:
        options: ``n``, ``h``, ``d``, ``seed``, ``tiny``.
    """
    h, n, d = (1, 40, 8) if options.get("tiny") else (options[x] for x in "hnd")
    draw = torch.Generator().manual_seed(options["seed"])
    query, key, value, above = (torch.randn(1, h, n, d, generator=draw) for _ in range(4))
    leaves = [x.requires_grad_() for x in (query, key, value)]
    scheme = PGNN(p=1.5, mu=0.1)
    output = torch.randn(h, d, 2 * d, generator=draw) / (2 * d) ** 0.5
    metric = output @ output.transpose(-1, -2)

    def plain(causal: bool) -> None:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        torch.autograd.grad(out, leaves, above)

    def ours(causal: bool) -> None:
        scores = AttentionScores(query, key, value, causal=causal, triangular=causal, metric=metric)
        torch.autograd.grad(
            scheme.attend(scores, "tiled", context=False)[0], [*leaves, scheme.p_logit.stored], above
        )

    return {
        BASELINE: lambda: plain(False),
        TILED: lambda: ours(False),
        CAUSAL: lambda: plain(True),
        TILED_CAUSAL: lambda: ours(True),
    }
