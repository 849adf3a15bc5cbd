"""Image encoders that read the pictures of a batch one after another, from one long list of patches (Qwen2-VL)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from attngraph import AttentionGraph


def unpacked(graphs: Mapping[str, AttentionGraph], inputs: Mapping[str, Tensor]) -> dict[str, AttentionGraph]:
    """The graphs of a batch, with one for each layer where an image encoder was called for each picture, or each window of
    it: its examples are the calls, in their order.

    Args:
        graphs: ``{layer: graph}``; calls of one layer are called ``layer``, ``layer#2`` and so on.
        inputs: of the model; ``pixel_values`` with two axes are packed patches.
    """
    pixels = inputs.get("pixel_values")
    if pixels is None or pixels.dim() != 2:
        return dict(graphs)
    calls: dict[str, list[AttentionGraph]] = {}
    for name, graph in graphs.items():
        own = graph.query_modality == "image" and graph.kind == "self"
        calls.setdefault(name.partition("#")[0] if own else name, []).append(graph)
    return {name: stacked(some) for name, some in calls.items()}


def stacked(graphs: Sequence[AttentionGraph]) -> AttentionGraph:
    """Graphs of one layer as the examples of one batch, with padding nodes where they are smaller than the largest."""
    if len(graphs) == 1:
        return graphs[0]
    n, m = (max(graph.shape[2 + side] for graph in graphs) for side in (0, 1))

    def filled(x: Tensor, *sizes: int) -> Tensor:
        return pad(
            x, [size for axis in range(1, len(sizes) + 1) for size in (0, sizes[-axis] - x.shape[-axis])]
        )

    def mask(graph: AttentionGraph, side: int) -> Tensor:
        own, shape = (graph.query_mask, graph.value_mask)[side], (graph.shape[0], graph.shape[2 + side])
        own = torch.ones(shape, dtype=torch.bool, device=graph.query.device) if own is None else own
        return filled(own, n, m) if own.dim() == 3 else filled(own, (n, m)[side])

    d = graphs[0].shape[-1]
    return replace(
        graphs[0],
        query=torch.cat([filled(graph.query, n, d) for graph in graphs]),
        value=torch.cat([filled(graph.value, m, d) for graph in graphs]),
        weight=torch.cat([filled(graph.weight, n, m) for graph in graphs]),
        query_mask=torch.cat([mask(graph, 0) for graph in graphs]),
        value_mask=torch.cat([mask(graph, 1) for graph in graphs]),
    )
