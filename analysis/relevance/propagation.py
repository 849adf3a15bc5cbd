"""Propagation of relevance through the layers of a model, whatever the rule of each layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from analysis.relevance.nodes import Graphs, Layers, Nodes, image_nodes
from analysis.relevance.routes import route


class Relevance(NamedTuple):
    """What the tokens receive from the inputs.

    Args:
        own: ``(b, n, n)``, from the tokens themselves.
        seen: ``(b, n, m)``, from the value nodes of the route's last hop; equal to ``own`` in a single
            sequence.
    """

    own: Tensor
    seen: Tensor


class NodeMaps:
    r"""The maps :math:`R^{ac}` ``(b, nodes of a, nodes of c)`` from node sets c to node sets a.

    A map is the identity within a set, and 0 between two sets, until a layer changes it.

    Args:
        reference: a tensor with ``b`` rows, of the dtype and on the device of the maps.
    """

    def __init__(self, reference: Tensor):
        self.reference = reference
        self._maps: dict[tuple[Nodes, Nodes], Tensor] = {}

    def sources(self, *sets: Nodes) -> set[Nodes]:
        """The sets from which any of these sets received something, themselves included."""
        return {*sets, *(c for a, c in self._maps if a in sets)}

    def __getitem__(self, pair: tuple[Nodes, Nodes]) -> Tensor:
        if pair not in self._maps:
            (a, c), create = pair, torch.eye if pair[0] == pair[1] else torch.zeros
            initial = create(a.number, c.number, dtype=self.reference.dtype, device=self.reference.device)
            self._maps[pair] = initial.expand(self.reference.shape[0], -1, -1)
        return self._maps[pair]

    def update(self, maps: dict[tuple[Nodes, Nodes], Tensor]) -> None:
        """Replace the maps of some pairs of node sets."""
        self._maps |= maps


Rule: TypeAlias = Callable[[str, Nodes, Nodes, NodeMaps], dict[tuple[Nodes, Nodes], Tensor]]


def propagate(graphs: Graphs, rule: Rule) -> Relevance:
    """Let every layer change the maps, in the order of the calls, and return those of the route.

    Args:
        graphs: of one model.
        rule: from a layer's name, its query nodes a, its value nodes b and the maps so far to the maps that
            the layer changes.

    Raises:
        ValueError: see :func:`analysis.relevance.route`.
    """
    hops, layers = route(graphs).hops, Layers(graphs)
    tokens, seen = layers.queries[hops[0]], layers.values[hops[-1]]
    maps = NodeMaps(exact(graphs[hops[0]].weight[:, 0]))
    reachable, started = layers.reachable(tokens), set()
    for names in layers.calls():
        if layers.queries[names[0]] not in reachable:
            continue
        for name in names:
            nodes = layers.queries[name]
            source = None if nodes in started else layers.source_of_image_tokens(name)
            if source is not None and not layers.is_cross(name):
                _start_from(maps, nodes, source, image_nodes(graphs[name], 1))
            started.add(nodes)
        changes = [rule(name, layers.queries[name], layers.values[name], maps) for name in names]
        for change in changes:  # both directions of a module read the same states
            maps.update(change)
    return Relevance(maps[tokens, tokens], maps[tokens, seen])


def _start_from(maps: NodeMaps, sequence: Nodes, source: Nodes, image: Tensor) -> None:
    """Start the image tokens of a sequence with the maps of the queries that became them."""
    for c in maps.sources(source):
        rows = maps[sequence, c].clone()
        rows[image] = maps[source, c].reshape(-1, c.number)
        maps.update({(sequence, c): rows})


def exact(x: Tensor) -> Tensor:
    """In double precision, where the device has it."""
    return x.float() if x.device.type == "mps" else x.double()
