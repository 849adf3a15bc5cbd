"""Raw attention: the weights of the layers by which the tokens see."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from analysis.relevance.nodes import Graphs, Layers, image_nodes
from analysis.relevance.propagation import exact
from analysis.relevance.routes import route


def raw(graphs: Graphs, layer: str | None = None, heads: Sequence[int] | None = None) -> Tensor:
    r"""Attention weights, as the mean over heads :math:`\frac{1}{h} \sum_k M^k`, ``(b, n, m)``.

    Where the route has several hops (a Q-Former, BLIP's question encoder), the product of theirs.

    Args:
        graphs: of one model.
        layer: the layer in place of the first hop; it must join the same nodes.
        heads: which heads of that layer; None for all.

    Raises:
        ValueError: no such layer or head, or see :func:`analysis.relevance.route`.
    """
    hops, layers = route(graphs).hops, Layers(graphs)
    first = hops[0] if layer is None else layer
    alike = [
        name
        for name in graphs
        if (layers.queries[name], layers.values[name]) == (layers.queries[hops[0]], layers.values[hops[0]])
    ]
    if first not in alike:
        raise ValueError(f"layer must be one of {', '.join(alike)}, got {layer!r}")
    weight = graphs[first].weight
    if heads is not None:
        if not heads or not all(0 <= head < weight.shape[1] for head in heads):
            raise ValueError(f"heads must lie in 0..{weight.shape[1] - 1} for {first}, got {list(heads)}")
        weight = weight[:, list(heads)]
    product = exact(weight).mean(1)
    for before, after in pairwise(hops):
        if layers.source_of_image_tokens(before):
            product = _columns(product, image_nodes(graphs[before], 1))
        product = product @ exact(graphs[after].weight).mean(1)
    return product


def _columns(x: Tensor, mask: Tensor) -> Tensor:
    """The columns of ``(b, n, m)`` at a mask ``(b, m)`` with equally many places in each example."""
    places = mask.nonzero()[:, 1].view(x.shape[0], 1, -1)
    return x.gather(2, places.expand(-1, x.shape[1], -1))
