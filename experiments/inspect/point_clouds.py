"""The nodes of attention layers as points, with what is known of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import ceil

import numpy as np
import torch
from torch import Tensor

from analysis.points import Cloud, Points, output_matrices
from attngraph import AttentionGraph
from experiments.inspect.source import Source
from experiments.inspect.words import PATCH_NAMES, patches_of, words_of
from experiments.models.batch import Batch
from experiments.progress import Progress

FROZEN, ADAPTED = "frozen", "adapted"


def gather_points(
    sources: Mapping[str, Source], layers: list[str] | None, limit: int, seed: int
) -> tuple[dict[str, list[Cloud]], list[str]]:
    """The points of the frozen model and, with an adapter, those of the adapted model on the same inputs.

    Args:
        sources: ``{state: source}``, the frozen model's first.
        layers: names or patterns; None for the last cross-attention and the self-attention before it.
        limit: points of each layer or head, at most.
        seed: of their choice.

    Returns:
        The clouds of each state, and the layers whose queries could be read only with rotary positions in
        them.
    """
    layers = layers or default_layers(sources[FROZEN])
    outputs, clouds, rotated = output_matrices(sources[FROZEN].model), {}, {}
    for state, source in sources.items():
        source.layers = layers
        parts, points = Counter(), Points(limit, seed, source.heads, outputs)
        batches = ceil(len(source) / source.batch_size)
        for batch, graphs in Progress(source.graphs(), f"reading layers ({state})", batches, leave=False):
            for layer, graph in graphs.items():
                rotated |= {layer: None} if graph.rotated else {}
                (query, is_query), (value, is_value) = (node_labels(batch, graph, side) for side in (0, 1))
                names, b = batch.names, graph.shape[0]
                if b != len(names):  # image encoders that see parts of pictures
                    names = [f"part {parts[layer] + k + 1}" for k in range(b)]
                    parts[layer] += b
                points.add(layer, graph, names, query, value, is_query, is_value)
        clouds[state] = points.clouds()
    return clouds, list(rotated)


def default_layers(source: Source) -> list[str]:
    """The last cross-attention layer and the self-attention layer before it; without cross-attention the
    last layer."""
    _, graphs = next(replace(source, batch_size=1, layers=None, heads=None).graphs())
    names = [name.partition("#")[0] for name in graphs]
    kinds = [graph.kind for graph in graphs.values()]
    if "cross" not in kinds:
        return names[-1:]
    last = len(kinds) - 1 - kinds[::-1].index("cross")
    return [name for name, kind in list(zip(names, kinds))[:last] if kind == "self"][-1:] + [names[last]]


def node_labels(batch: Batch, graph: AttentionGraph, side: int) -> tuple[dict[str, np.ndarray], Tensor]:
    """Tokens and classes of the query (0) or value nodes (1), and which of them are no padding."""
    shape = graph.shape[0], graph.shape[2 + side]
    image, words = graph.is_image()[side], words_of(batch, graph, side)
    patches = patches_of(batch, graph, side)
    token, kind = np.full((2, *shape), "", dtype=object)
    valid = torch.ones(shape, dtype=torch.bool)
    if image is not None:
        image = image.cpu().numpy()
        kind[image] = "image"
        if patches is not None:
            names = np.array([*PATCH_NAMES, "image's [CLS]"], dtype=object)  # the last has number -1
            kind[image] = names[patches.numpy()[image]]
    if words is not None:
        is_token, token, valid = words.is_token.numpy(), words.tokens, ~words.padding
        kind[is_token] = np.where(words.special.numpy()[is_token], "special token", "word")
    return {"token": token, "class": kind}, valid
