r"""Null models: graphs of the same size, degrees and mask whose edges are independent of classes and
features.

- :func:`uniform`: every query spreads its weight evenly over the values that it sees,
  :math:`U_{ij} = d_i / |\{j : ij \text{ visible}\}|`. The mask and the query degrees stay.
- :func:`permuted`: the weights do not move, and classes (or features) are permuted: those of the values among
  the values; if both sides are the same nodes (self-attention, plain graphs), those of the nodes, identically
  on both sides. All degrees of both sides, every single weight, the mask and the size of each class are kept;
  only the link between nodes and edges is broken. Since no weight moves, none moves to an edge that a causal
  mask hides. (Permuting only one side of self-attention would be wrong: without its diagonal no token meets
  itself, so tokens of its class are slightly rarer among those that it meets than among all.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from attngraph.analysis.bipartite import Bipartite, Stream


class Draws:
    """Random numbers for nodes. Every example has a separate stream, determined by the seed, a name and the
    example's number, and its numbers are assigned to the nodes that count, one after another, so neither the
    size of batches nor padding changes them. They are sampled on the CPU, hence identical on every
    device.

    Args:
        seed: seed of the numbers.
        name: name of the stream, such as that of a layer.
        first: number of the batch's first example.
    """

    def __init__(self, seed: int = 0, name: str = "", first: int = 0):
        self.seed, self.name, self.first = seed, crc32(name.encode()), first
        self._streams: list[np.random.Generator] = []

    def __call__(self, mask: Tensor) -> Tensor:
        """The next numbers, in [0, 1) where ``mask (b, nodes)`` is True and 2 elsewhere; on the CPU."""
        known = mask.cpu().numpy()
        for k in range(len(self._streams), len(known)):
            self._streams.append(np.random.default_rng([self.seed, self.name, self.first + k]))
        keys = np.full(known.shape, 2.0)
        for row, nodes, stream in zip(keys, known, self._streams):
            row[nodes] = stream.random(nodes.sum())
        return torch.from_numpy(keys)


def uniform(graph: Bipartite) -> Bipartite:
    """Uniform attention with the graph's mask, query degrees and features."""
    if isinstance(graph, Stream):
        return replace(graph, even=True)
    mask = graph.visible[:, None].to(graph.weight.dtype)
    return replace(graph, weight=even_weight(graph, graph.query_degree)[..., None] * mask)


def even_weight(graph: Bipartite, query_degree: Tensor) -> Tensor:
    r"""The weight :math:`d_i/k_i` of each of a query's edges in uniform attention, ``(b, h, n)``."""
    return query_degree / graph.seen.clamp(min=1)[:, None]


def permuted(graph: Bipartite, draws: Draws) -> Bipartite:
    """The graph with the features of its values permuted, or of its nodes where both sides are the same.

    Raises:
        ValueError: the graph has no features.
    """
    return rearranged(graph, permutation(graph, draws))


def permutation(graph: Bipartite, draws: Draws) -> Tensor:
    """A random order of the values, or of the nodes where both sides are the same, ``(b, m)``: of those that
    may have edges, the others stay in their places."""
    touched = graph.columns | graph.rows if graph.paired else graph.columns
    return shuffle(touched[:, None], draws)[:, 0]


def rearranged(graph: Bipartite, order: Tensor) -> Bipartite:
    """The graph in which value j has the features of value ``order[:, j]``, and query i those of query
    ``order[:, i]`` where both sides are the same nodes.

    Raises:
        ValueError: the graph has no features.
    """
    query, value = graph.features
    query = in_orders(query, [order])[..., 0, :] if graph.paired else query
    return replace(graph, query=query, value=in_orders(value, [order])[..., 0, :])


def in_orders(x: Tensor, orders: Sequence[Tensor | None]) -> Tensor:
    """Features ``(b, h, nodes, d)`` of nodes in several orders ``(b, nodes)``, side by side,
    ``(b, h, nodes, orders, d)``; None for the order that they have."""
    b, h, nodes, d = x.shape
    found = x.new_empty(b, h, nodes, len(orders), d)
    for k, order in enumerate(orders):
        if order is None:
            found[..., k, :] = x
            continue
        for features, places, to in zip(x, order, found[..., k, :]):
            torch.index_select(features, 1, places, out=to)
    return found


def shuffle(mask: Tensor, draws: Draws) -> Tensor:
    """A random order of the nodes, as long as ``mask (b, h|1, nodes)``, that moves the places where ``mask``
    is True among themselves only; the same for all heads where their masks are the same."""
    known = mask.cpu()
    keys = draws(known.any(1))[:, None].expand(known.shape).masked_fill(~known, 2)
    places = (~known).long().argsort(dim=-1, stable=True)
    return torch.zeros_like(places).scatter(-1, places, keys.argsort(dim=-1, stable=True)).to(mask.device)


def gather(x: Tensor, order: Tensor) -> Tensor:
    """Labels ``x (b, h|1, m)`` with their nodes rearranged; ``order (b, h|1, m)``."""
    shape = [max(sizes) for sizes in zip(x.shape, order.shape)]
    return x.expand(shape).gather(2, order.expand(shape))
