"""Image encoders that are called for one picture after another (Qwen2-VL): their calls are a batch's
examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from attngraph import AttentionGraph


def calls_as_examples(
    graphs: Mapping[str, AttentionGraph], inputs: Mapping[str, Tensor]
) -> dict[str, AttentionGraph]:
    """The graphs of a batch, with a single graph for each layer of an image encoder that was called for each
    picture, or
    for each window of a picture: the calls, in their order, are the graph's examples.

    Args:
        graphs: ``{layer: graph}``; calls of one layer are called ``layer``, ``layer#2`` and so on.
        inputs: of the model; ``pixel_values`` with two axes hold the patches of all pictures in one list.
    """
    pixels = inputs.get("pixel_values")
    if pixels is None or pixels.dim() != 2:
        return dict(graphs)
    calls: dict[str, list[AttentionGraph]] = {}
    for name, graph in graphs.items():
        in_image_encoder = graph.query_modality == "image" and graph.kind == "self"
        calls.setdefault(name.partition("#")[0] if in_image_encoder else name, []).append(graph)
    return {name: stack_graphs(graphs) for name, graphs in calls.items()}


def stack_graphs(graphs: Sequence[AttentionGraph]) -> AttentionGraph:
    """Graphs of one layer as the examples of one batch, with padding nodes where they are smaller than the
    largest."""
    if len(graphs) == 1:
        return graphs[0]
    n, m = (max(graph.shape[2 + side] for graph in graphs) for side in (0, 1))

    def filled(x: Tensor, *sizes: int) -> Tensor:
        axes = range(1, len(sizes) + 1)
        return pad(x, [size for axis in axes for size in (0, sizes[-axis] - x.shape[-axis])])

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
