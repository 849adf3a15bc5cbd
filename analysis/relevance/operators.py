"""Three operators on the layers of a model: raw attention, attention rollout, and relevance weighted by
gradients; and how they go through the layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from attngraph import AttentionGraph
from attngraph.analysis.relevance.routes import Graphs, Layers, Nodes, image_nodes, route
from attngraph.sparsify import KeptWeight


class Relevance(NamedTuple):
    """Relevance of the inputs to the tokens.

    Args:
        own: ``(b, n, n)``, from the tokens themselves.
        seen: ``(b, n, m)``, from the value nodes of the route's last hop; equal to ``own`` in a single
            sequence.
    """

    own: Tensor
    seen: Tensor


def raw(
    graphs: Graphs,
    layer: str | None = None,
    heads: Sequence[int] | None = None,
    query: Tensor | None = None,
) -> Tensor:
    r"""Attention weights, as the mean over heads :math:`\frac{1}{h} \sum_k M^k`, ``(b, n, m)``; those of one
    query of each example, ``(b, m)``.

    Where the route has several hops (a Q-Former, BLIP's question encoder), the product of theirs. Of one
    query, no weights of all edges are held where the graphs are streamed (``capture(..., stream=True)``).

    Args:
        graphs: of one model.
        layer: a layer that replaces the first hop; it must connect the same nodes.
        heads: which heads of that layer; None for all.
        query: which query of each example, ``(b,)``; None for all.

    Raises:
        ValueError: no such layer or head, or see :func:`attngraph.analysis.relevance.route`.
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
    weight = graphs[first].weight if query is None else graphs[first].weights_of(query)[:, :, None]
    if heads is not None:
        if not heads or not all(0 <= head < weight.shape[1] for head in heads):
            raise ValueError(f"heads must be in 0..{weight.shape[1] - 1} for {first}, got {list(heads)}")
        weight = weight[:, list(heads)]
    product = exact(weight).mean(1)
    for before, after in pairwise(hops):
        if layers.source_of_image_tokens(before):
            product = _columns(product, image_nodes(graphs[before], 1))
        product = _onward(product, graphs[after])
    return product if query is None else product[:, 0]


def _onward(product: Tensor, graph: AttentionGraph) -> Tensor:
    """``(b, r, n)`` times the mean over heads of a graph's weights."""
    kept = graph.stored
    if isinstance(kept, KeptWeight):
        return exact(kept.sum_of(product.mT)).mean(1)
    return product @ exact(kept).mean(1)


def _columns(x: Tensor, mask: Tensor) -> Tensor:
    """The columns of ``(b, n, m)`` at a mask ``(b, m)`` with equally many places in each example."""
    places = mask.nonzero()[:, 1].view(x.shape[0], 1, -1)
    return x.gather(2, places.expand(-1, x.shape[1], -1))


def rollout(graphs: Graphs) -> Relevance:
    r"""Attention rollout: mixing of the inputs from layer to layer, if each layer keeps one half of a state
    and takes the other half by attention.

    With :math:`P` the mean over heads of a layer's weights, its rows divided by their sums, and for every
    node set :math:`c`, a layer by which the nodes :math:`a` attend to :math:`b` (at themselves in
    self-attention) does

    .. math::
        R^{ac} \leftarrow \tfrac12 (R^{ac} + P R^{bc})

    from :math:`R^{aa} = I` and :math:`R^{ac} = 0`. That is the product of the layers' square matrices over
    all nodes, so a token's row over all sets sums to 1. A row without edges (padding) does not change.

    Args:
        graphs: graphs of one model.

    Raises:
        ValueError: see :func:`attngraph.analysis.relevance.route`.

    Source:
        Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, for self-attention; the
        extension to cross-attention is ours.
    """

    def rule(name: str, a: Nodes, b: Nodes, maps: NodeMaps) -> dict[tuple[Nodes, Nodes], Tensor]:
        weight, share = _mixing(graphs[name])
        return {(a, c): (1 - share) * maps[a, c] + share * (weight @ maps[b, c]) for c in maps.sources(a, b)}

    return propagate(graphs, rule)


def _mixing(graph: AttentionGraph) -> tuple[Tensor, Tensor]:
    """:math:`P` ``(b, n, m)``, and the share of a node's state that comes by attention ``(b, n, 1)``: a half,
    or 0 in rows without edges."""
    weight = exact(graph.weight).mean(1)
    total = weight.sum(-1, keepdim=True)
    has_edges = total > 0
    return weight / torch.where(has_edges, total, torch.ones_like(total)), 0.5 * has_edges


def relevance(graphs: Graphs, gradients: Mapping[str, Tensor]) -> Relevance:
    r"""Relevance weighted by gradients.

    With a score :math:`y`, and over the heads of a layer with weights :math:`A`, for every node set
    :math:`c`,

    .. math::
        \bar A &= E_h\big[ (\nabla A \odot A)^+ \big], \quad \nabla A = \partial y / \partial A && (5) \\
        R^{ac} &\leftarrow R^{ac} + \bar A R^{ac} && \text{self-attention of } a \text{ (6, 7)} \\
        \bar R &= I + \hat R / \textstyle\sum_k \hat R_{\cdot k}, \quad \hat R = R - I
            && \text{rows normalised (8, 9)} \\
        R^{ab} &\leftarrow R^{ab} + (\bar R^{aa})^\top \bar A \bar R^{bb}
            && a \text{ attends to } b \text{ (10)} \\
        R^{ac} &\leftarrow R^{ac} + \bar A R^{bc}, \quad c \neq b && \text{(11)}

    from :math:`R^{aa} = I` and :math:`R^{ac} = 0`. A row of :math:`\hat R` that is 0 stays 0. The paper has
    two node sets, and (11) for :math:`c = a` alone; here it also propagates the relevance that :math:`b`
    received from others. Two directions of cross-attention by one module (LXMERT) see the same states, so
    both are read before either changes. Values are at least 0 and unbounded; compare them relative to their
    sum.

    Args:
        graphs: as :func:`attngraph.analysis.relevance.capture_with_gradients` returns them.
        gradients: of the score with respect to the weights, from the same function. Weights other than those
            that were differentiated (for instance an adapter's :math:`\bar M`) have no gradients.

    Raises:
        ValueError: a layer without gradients, gradients of another shape, or see
            :func:`attngraph.analysis.relevance.route`.

    Source:
        Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and
        Encoder-Decoder Transformers", ICCV 2021, equations 5 to 11.
    """

    def rule(name: str, a: Nodes, b: Nodes, maps: NodeMaps) -> dict[tuple[Nodes, Nodes], Tensor]:
        weight = _positive(name, graphs, gradients)
        changes = {(a, c): maps[a, c] + weight @ maps[b, c] for c in maps.sources(a, b)}
        if a != b:
            own, other = _normalised(maps[a, a]), _normalised(maps[b, b])
            changes[a, b] = maps[a, b] + own.transpose(1, 2) @ weight @ other
        return changes

    return propagate(graphs, rule)


def _positive(name: str, graphs: Graphs, gradients: Mapping[str, Tensor]) -> Tensor:
    """Equation (5)."""
    weight = graphs[name].weight
    if name not in gradients or gradients[name].shape != weight.shape:
        shape = tuple(gradients[name].shape) if name in gradients else "none"
        raise ValueError(f"gradients must hold {name} with shape {tuple(weight.shape)}, got {shape}")
    return (exact(gradients[name]) * exact(weight)).clamp(min=0).mean(1)


def _normalised(maps: Tensor) -> Tensor:
    """Equations (8) and (9)."""
    identity = torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    gained = maps - identity
    total = gained.sum(-1, keepdim=True)
    return identity + gained / torch.where(total > 0, total, torch.ones_like(total))


# ---- through the layers


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
        ValueError: see :func:`attngraph.analysis.relevance.route`.
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
