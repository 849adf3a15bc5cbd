"""The route by which the tokens of a model come to see what they see."""

from __future__ import annotations

from typing import NamedTuple

from analysis.relevance.nodes import Graphs, Layers, Nodes


class Route(NamedTuple):
    """The layers by which the tokens of a model see other nodes.

    Args:
        layers: those in which the tokens are queries, in the order of the calls.
        hops: the last layer by which the tokens look at other nodes; then, where those are not image nodes
            yet, the last layer by which these look at others, and so on. A single sequence of text and image
            looks at itself.
    """

    layers: list[str]
    hops: list[str]


def route(graphs: Graphs) -> Route:
    """Find the tokens whose view is asked for, and the layers by which they see.

    The tokens are the queries of the last layer that is cross-attention from other nodes than image nodes, or
    self-attention in a sequence of text and image. Where there is no such layer, they are the image nodes
    that look at others (the probe of a pooling head, a Q-Former's queries), or those of the last image
    encoder, or else those of the last layer. Image tokens of a sequence that are as many as the queries of
    some cross-attention of image nodes (a Q-Former) are taken for those, and the route goes on by that layer.

    Raises:
        ValueError: no layer, or cross-attention whose sides cannot be told apart.
    """
    if not graphs:
        raise ValueError("graphs must hold a layer, got none")
    layers = Layers(graphs)
    start = _first_hop(layers)
    tokens = layers.queries[start]
    hops, passed = [start], {tokens}
    while True:
        seen = layers.source_of_image_tokens(hops[-1]) or layers.values[hops[-1]]
        onward = None if seen == tokens else _next_hop(layers, seen, passed)
        if onward is None:
            return Route([name for name in graphs if layers.queries[name] == tokens], hops)
        hops.append(onward)
        passed.add(seen)


def _first_hop(layers: Layers) -> str:
    """The layer whose queries are the tokens."""

    def text_reads(name: str) -> bool:
        modality = layers.queries[name].modality
        return modality != "image" if layers.is_cross(name) else modality == "mixed"

    def image_reads(name: str) -> bool:
        return layers.queries[name].modality == "image"

    return (
        layers.last(text_reads)
        or layers.last(lambda name: image_reads(name) and layers.is_cross(name))
        or layers.last(image_reads)
        or list(layers.graphs)[-1]
    )


def _next_hop(layers: Layers, seen: Nodes, passed: set[Nodes]) -> str | None:
    """The last cross-attention of a node set to nodes that the route has not passed."""
    return layers.last(
        lambda name: (
            layers.is_cross(name) and layers.queries[name] == seen and layers.values[name] not in passed
        )
    )
