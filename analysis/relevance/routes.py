"""Sets of nodes, the layers of a model as links between them, and the route by which its tokens see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from attngraph import AttentionGraph

Graphs: TypeAlias = Mapping[str, AttentionGraph]


class Nodes(NamedTuple):
    """A set of nodes, identified by its size, the modality of the nodes and whether they are ordered in time.

    Args:
        examples: the number of examples with such nodes; larger than the batch if the parts of an image are
            separate examples.
        number: the number of nodes, padding included.
        modality: ``"text"``, ``"image"``, ``"mixed"``, or None if unknown.
        causal: the nodes are a decoder's tokens.
    """

    examples: int
    number: int
    modality: str | None
    causal: bool


def image_nodes(graph: AttentionGraph, side: int) -> Tensor:
    """Query nodes (side 0) or value nodes (side 1) that stand for parts of an image, without padding.

    Returns:
        bool ``(b, nodes)``.
    """
    image, valid = graph.is_image()[side], valid_nodes(graph, side)
    return torch.zeros_like(valid) if image is None else image & valid


def valid_nodes(graph: AttentionGraph, side: int) -> Tensor:
    """Query nodes (side 0) or value nodes (side 1) that are not padding.

    Returns:
        bool ``(b, nodes)``.
    """
    mask = (graph.query_mask, graph.value_mask)[side]
    if mask is None:
        return torch.ones(graph.shape[0], graph.shape[2 + side], dtype=torch.bool, device=graph.query.device)
    return mask.any(1) if mask.dim() == 3 else mask


class Layers:
    """The layers of a model as links between node sets, in the order of their calls.

    Args:
        graphs: ``{layer: graph}`` of one model.

    Attributes:
        graphs: the graphs.
        queries: ``{layer: node set}`` of the queries.
        values: ``{layer: node set}`` of the values; the same as the queries in self-attention, unless it
            pools its values (SegFormer).

    Raises:
        ValueError: a cross-attention layer whose two sides cannot be distinguished.
    """

    def __init__(self, graphs: Graphs):
        self.graphs = graphs
        self.queries: dict[str, Nodes] = {}
        self.values: dict[str, Nodes] = {}
        for name, graph in graphs.items():
            query_modality, value_modality = (
                "mixed" if isinstance(modality, Tensor) else modality
                for modality in (graph.query_modality, graph.value_modality)
            )
            b, _, n, m, _ = graph.shape
            query = Nodes(b, n, query_modality, graph.causal)
            value = Nodes(b, m, value_modality, False) if self.is_cross(name) or n != m else query
            if self.is_cross(name) and query == value:
                raise ValueError(
                    f"graphs do not distinguish the two sides of {name}: both have the same number and kind "
                    "of nodes, in no order; use texts of another length"
                )
            self.queries[name], self.values[name] = query, value

    def is_cross(self, name: str) -> bool:
        """Whether a layer is cross-attention."""
        return self.graphs[name].kind == "cross"

    def last(self, condition: Callable[[str], bool]) -> str | None:
        """The last layer that meets a condition, or None."""
        return next((name for name in reversed(list(self.graphs)) if condition(name)), None)

    def source_of_image_tokens(self, name: str) -> Nodes | None:
        """The queries of a cross-attention layer that became the image tokens among a layer's values, or
        None.

        They are recognised by their number: a Q-Former's queries are as many as the image tokens.
        """
        if self.values[name].modality != "mixed":
            return None
        count = image_nodes(self.graphs[name], 1).sum(1)
        for other in reversed(list(self.graphs)):
            nodes = self.queries[other]
            if self.is_cross(other) and nodes.modality == "image" and (count == nodes.number).all():
                return nodes
        return None

    def reachable(self, tokens: Nodes) -> set[Nodes]:
        """The node sets that the tokens see, directly or through others, themselves included.

        An image encoder whose states become the tokens of a sequence is not among them.
        """
        reached: set[Nodes] = set()
        fresh = {tokens}
        while fresh:
            reached |= fresh
            names = [name for name in self.graphs if self.queries[name] in fresh]
            sources = [(self.values[name], self.source_of_image_tokens(name)) for name in names]
            fresh = {nodes for pair in sources for nodes in pair if nodes is not None} - reached
        return reached

    def calls(self) -> Iterator[list[str]]:
        """The layers one by one; both directions of a module that ran cross-attention both ways together."""
        names = list(self.graphs)
        while names:
            size = 2 if len(names) > 1 and self._are_two_directions(names[0], names[1]) else 1
            yield names[:size]
            names = names[size:]

    def _are_two_directions(self, name: str, following: str) -> bool:
        module, _, call = name.partition("#")
        other, _, next_call = following.partition("#")
        return (
            self.is_cross(name)
            and module == other
            and int(next_call) - int(call or 1) == 1
            and (self.queries[following], self.values[following]) == (self.values[name], self.queries[name])
        )


class Route(NamedTuple):
    """The layers by which the tokens of a model see other nodes.

    Args:
        layers: those in which the tokens are queries, in the order of the calls.
        hops: the last layer by which the tokens attend to other nodes; then, where those are not image nodes
            yet, the last layer by which these attend to others, and so on. A single sequence of text and
            image attends to itself.
    """

    layers: list[str]
    hops: list[str]


def route(graphs: Graphs) -> Route:
    """Find the tokens to which relevance is computed, and the layers by which they see the inputs.

    The tokens are the queries of the last layer that is cross-attention from other nodes than image nodes, or
    self-attention in a sequence of text and image. Where there is no such layer, they are the image nodes
    that attend to others (the probe of a pooling head, a Q-Former's queries), or those of the last image
    encoder, or else those of the last layer. Image tokens of a sequence that are as many as the queries of
    some cross-attention of image nodes (a Q-Former) are assumed to be those, and the route continues with
    that layer.

    Raises:
        ValueError: no layer, or cross-attention whose sides cannot be distinguished.
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
