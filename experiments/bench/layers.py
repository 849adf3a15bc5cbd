"""Heterophily statistics of attention layers of BLIP-base's sizes, against attention itself."""

from __future__ import annotations

import torch

from adapters.scheme import attention
from analysis.heterophily import Heterophily
from analysis.labels import Labels
from attngraph import AttentionGraph, AttentionScores
from experiments.bench.measure import Run

BASELINE = "cross-attention itself"
CROSS, SELF, IMAGE = (
    "statistics of cross-attention",
    "statistics of the text's self-attention",
    "statistics of the image's self-attention",
)


def _scores(options: dict, queries: str, values: str) -> AttentionScores:
    b, h, d = (1, 1, 4) if options.get("tiny") else (options[x] for x in "bhd")
    n, m = (
        {"text": 5, "image": 9} if options.get("tiny") else {"text": options["n"], "image": options["m"]}
    ).values()
    sizes = {"text": n, "image": m}
    draw = torch.Generator().manual_seed(options["seed"])
    query, key, value = (
        torch.randn(b, h, sizes[side], d, generator=draw) for side in (queries, values, values)
    )
    causal = queries == values == "text"
    return AttentionScores(2 * query, key, value, triangular=causal, causal=causal)


def _graph(options: dict, queries: str, values: str) -> AttentionGraph:
    graph = _scores(options, queries, values).graph()
    kind = "self" if queries == values else "cross"
    return AttentionGraph(
        graph.query,
        graph.value,
        graph.weight,
        value_mask=graph.value_mask,
        causal=graph.causal,
        kind=kind,
        query_modality=queries,
        value_modality=values,
    )


def runs(options: dict) -> dict[str, Run]:
    """All statistics of one layer except spectra, nulls and bootstrap included, with two sets of labels.

    Args:
        options: ``b, h, d``, ``n`` words, ``m`` image nodes, ``seed``, ``tiny``.
    """

    def statistics(queries: str, values: str) -> Run:
        graph = _graph(options, queries, values)
        b, h, n, m, _ = graph.shape
        draw = torch.Generator().manual_seed(options["seed"])
        labels = {
            name: Labels(*(torch.randint(0, classes, (b, heads, nodes), generator=draw) for nodes in (n, m)))
            for name, classes, heads in (("class", 6, 1), ("cluster", 8, h))
        }
        if queries == values:
            labels["class"] = Labels(labels["class"].query, labels["class"].query)

        def run() -> torch.Tensor:
            Heterophily().add("layer", graph, labels)
            return graph.weight[:, :, :1, :1]

        return run

    scores = _scores(options, "text", "image")
    return {
        BASELINE: lambda: attention(scores),
        CROSS: statistics("text", "image"),
        SELF: statistics("text", "text"),
        IMAGE: statistics("image", "image"),
    }
