"""Attention rollout."""

from __future__ import annotations

import torch
from torch import Tensor

from analysis.relevance.nodes import Graphs, Nodes
from analysis.relevance.propagation import NodeMaps, Relevance, exact, propagate
from attngraph import AttentionGraph


def rollout(graphs: Graphs) -> Relevance:
    r"""Attention rollout: how inputs mix from layer to layer if each layer keeps one half of a state and
    takes the other half by attention.

    With :math:`P` the mean over heads of a layer's weights, its rows divided by their sums, and for every
    node set :math:`c`, a layer by which the nodes :math:`a` look at :math:`b` (at themselves in
    self-attention) does

    .. math::
        R^{ac} \leftarrow \tfrac12 (R^{ac} + P R^{bc})

    from :math:`R^{aa} = I` and :math:`R^{ac} = 0`. That is the product of the layers' square matrices over
    all nodes, so a token's row over all sets sums to 1. A row without edges (padding) stays as it is.

    Args:
        graphs: of one model.

    Raises:
        ValueError: see :func:`analysis.relevance.route`.

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
