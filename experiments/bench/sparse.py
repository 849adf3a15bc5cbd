"""The sparse backend on each query's k heaviest edges: time, and the error against the exact result."""

from __future__ import annotations

import torch

from adapters import PGNN
from attngraph import AttentionScores
from experiments.bench.measure import Run

BASELINE = "exact, dense backend"
STEPS = (1, 4, 16, 64, 256)


def _graph(options: dict):
    b, h, n, m, d = (1, 1, 3, 300, 4) if options.get("tiny") else (options[x] for x in "bhnmd")
    draw = torch.Generator().manual_seed(options["seed"])
    query, key, value = (torch.randn(b, h, k, d, generator=draw) for k in (n, m, m))
    return AttentionScores(
        2 * query, key, value
    ).graph()  # as peaked as trained attention: half the mass on some 20 of 577


def runs(options: dict) -> dict[str, Run]:
    """Forward only: one step of pGNN, sparsification included.

    Args:
        options: ``b, h, n, m, d``, ``seed``, ``tiny``.
    """
    graph, scheme = _graph(options), PGNN()

    def run(k: int | None) -> torch.Tensor:
        with torch.no_grad():
            return scheme(graph) if k is None else scheme(graph.sparsify(top_k=k), "sparse")

    return {
        BASELINE: lambda: run(None),
        **{f"top-k {k}": lambda k=k: run(k) for k in STEPS if k <= graph.shape[3]},
    }


def errors(options: dict) -> dict[str, float]:
    """Relative error (Frobenius norm) of every run of :func:`runs`."""
    results = {name: run() for name, run in runs(options).items()}
    exact = results[BASELINE]
    return {name: float((result - exact).norm() / exact.norm()) for name, result in results.items()}
