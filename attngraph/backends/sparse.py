"""Message passing over the non-zero edges, through PyG."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from attngraph.edges import Edges
from attngraph.graph import AttentionGraph
from attngraph.precision import widen


class EdgeList(Edges):
    """Edges in PyG's format: a list of pairs of nodes. Numbers per edge are ``(e,)``.

    Args:
        query: query features ``(b, h, n, d)``; node ``i`` of example ``b`` and head ``h`` has the number
            ``(b·heads + h)·n + i``.
        value: value features ``(b, h, m, d)``, whose nodes are numbered in the same way.
        edge_index: ``(2, e)``, the value and the query of each edge.
        weight: ``(e,)``, at least 0. Edges that occur twice are two edges.
        weighted_sum: function that sends messages along edges; see
            :meth:`attngraph.backends.message_passing.WeightedSum.weighted_sum`. Sums of weights alone do not
            go through it.
        causal: queries are ordered in time, by their numbers.

    Raises:
        ValueError: when asked for degrees ``"mean"``: a list of edges does not say how many values a query
            might see.
    """

    def __init__(
        self,
        query: Tensor,
        value: Tensor,
        edge_index: Tensor,
        weight: Tensor,
        weighted_sum: Callable[[Tensor, Tensor, Tensor, int], Tensor],
        causal: bool = False,
    ):
        self.query, self.value, self.weight = widen(query), widen(value), widen(weight)
        self.value_node, self.query_node = edge_index
        self._weighted_sum, self.causal = weighted_sum, causal

    def query_degree(self) -> Tensor:
        return self.sum_at_queries(self.weight).flatten()[self.query_node]

    def value_degree(self, degree: str) -> Tensor:
        if degree != "sum":
            raise ValueError(
                f"degree={degree!r} needs the numbers of visible values and valid queries, which a list of "
                'edges does not have: use degree="sum", or run the scheme on an AttentionGraph'
            )
        if not self.causal:
            return self.sum_at_values(self.weight).flatten()[self.value_node]
        b, h, n, _ = self.query.shape
        by_time, order = (self.value_node * (b * h * n) + self.query_node).sort()  # value by value
        value = self.value_node[order]
        first, last = torch.searchsorted(value, value), torch.searchsorted(by_time, by_time, right=True)
        sums = pad(self.weight[order].double().cumsum(0), (1, 0))  # a difference of long sums is taken
        so_far = (sums[last] - sums[first]).to(self.weight.dtype)
        return torch.zeros_like(so_far).index_put((order,), so_far)

    def to_queries(self, per_edge: Tensor, value: Tensor) -> Tensor:
        return self._sum(self.value_node, self.query_node, per_edge, value, like=self.query)

    def to_values(self, per_edge: Tensor, query: Tensor) -> Tensor:
        return self._sum(self.query_node, self.value_node, per_edge, query, like=self.value)

    def sum_at_queries(self, per_edge: Tensor) -> Tensor:
        return _sum_at(self.query_node, per_edge, like=self.query)

    def sum_at_values(self, per_edge: Tensor) -> Tensor:
        return _sum_at(self.value_node, per_edge, like=self.value)

    def products(
        self, query: Tensor, value: Tensor, between: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        query_g = self.with_metric(query)
        norms_q = (query_g * query).sum(-1).flatten()[self.query_node]
        norms_v = self.square_norm(value).flatten()[self.value_node]
        pair = query_g if between is None else query @ between
        pairs = pair.flatten(0, 2)[self.query_node] * value.flatten(0, 2)[self.value_node]
        return norms_q, norms_v, pairs.sum(-1)

    def to_dense(self, per_edge: Tensor) -> Tensor:
        b, h, n, _ = self.query.shape
        m = self.value.shape[2]
        group, i = self.query_node // n, self.query_node % n
        dense = per_edge.new_zeros(b * h, n, m)
        return dense.index_put((group, i, self.value_node % m), per_edge, accumulate=True).view(b, h, n, m)

    def _sum(
        self, source: Tensor, target: Tensor, per_edge: Tensor, features: Tensor, like: Tensor
    ) -> Tensor:
        """Weighted sums of features at the targets of edges, whose nodes are those of ``like``."""
        b, h, targets, _ = like.shape
        edge_index = torch.stack([source, target])
        sums = self._weighted_sum(features.flatten(0, 2), edge_index, per_edge, b * h * targets)
        return sums.view(b, h, targets, features.shape[-1])


class SparseEdges(EdgeList):
    """The non-zero edges of all examples and heads of an attention graph as one disconnected bipartite PyG
    graph."""

    graph: AttentionGraph

    def __init__(self, graph: AttentionGraph):
        from attngraph.backends.message_passing import WeightedSum  # PyG takes seconds to import

        Edges.__init__(self, graph)
        _, h, n, m, _ = graph.shape
        self.index = graph.weight.detach().nonzero(as_tuple=True)  # b, h, i, j of each edge
        b_index, h_index, i, j = self.index
        group = b_index * h + h_index
        edge_index = torch.stack([group * m + j, group * n + i])
        weight, weighted_sum = graph.weight[self.index], WeightedSum().weighted_sum
        EdgeList.__init__(self, self.query, self.value, edge_index, weight, weighted_sum, graph.causal)

    def query_degree(self) -> Tensor:
        return self._at_edges(self.graph.query_degree())

    def value_degree(self, degree: str) -> Tensor:
        return self._at_edges(self.graph.value_degree(degree))

    def _at_edges(self, dense: Tensor) -> Tensor:
        return dense.expand_as(self.graph.weight)[self.index]


def _sum_at(node: Tensor, per_edge: Tensor, like: Tensor) -> Tensor:
    """Sums of numbers per edge at nodes, which are those of ``like``, ``(b, h, nodes, 1)``."""
    b, h, nodes, _ = like.shape
    return per_edge.new_zeros(b * h * nodes).index_add(0, node, per_edge).view(b, h, nodes, 1)
