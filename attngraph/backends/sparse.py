"""Message passing over the non-zero edges, through PyG."""

from __future__ import annotations

import torch
from torch import Tensor

from attngraph.edges import Edges
from attngraph.graph import AttentionGraph
from attngraph.precision import widen


class SparseEdges(Edges):
    """The non-zero edges of all examples and heads as one disconnected bipartite PyG graph; numbers per edge
    are ``(e,)``.

    Nodes of example ``b`` and head ``h`` are numbered ``(b·heads + h)·n + i`` (queries) and ``(b·heads + h)·m
    + j`` (values); sums run through PyG message passing.
    """

    graph: AttentionGraph

    def __init__(self, graph: AttentionGraph):
        from attngraph.backends.message_passing import WeightedSum  # PyG takes seconds to import

        super().__init__(graph)
        _, h, n, m, _ = graph.shape
        self.index = graph.weight.detach().nonzero(as_tuple=True)  # b, h, i, j of each edge
        b_index, h_index, i, j = self.index
        group = b_index * h + h_index
        self.query_node, self.value_node = group * n + i, group * m + j
        self.weight = widen(graph.weight)[self.index]
        self.passing = WeightedSum()

    def query_degree(self) -> Tensor:
        return self._at_edges(self.graph.query_degree())

    def value_degree(self, degree: str) -> Tensor:
        return self._at_edges(self.graph.value_degree(degree))

    def to_queries(self, per_edge: Tensor, value: Tensor) -> Tensor:
        return self._sum(torch.stack([self.value_node, self.query_node]), per_edge, value, like=self.query)

    def to_values(self, per_edge: Tensor, query: Tensor) -> Tensor:
        return self._sum(torch.stack([self.query_node, self.value_node]), per_edge, query, like=self.value)

    def sum_at_queries(self, per_edge: Tensor) -> Tensor:
        return self.to_queries(per_edge, torch.ones_like(self.value[..., :1]))

    def sum_at_values(self, per_edge: Tensor) -> Tensor:
        return self.to_values(per_edge, torch.ones_like(self.query[..., :1]))

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
        return torch.zeros_like(widen(self.graph.weight)).index_put(self.index, per_edge)

    def _at_edges(self, dense: Tensor) -> Tensor:
        return dense.expand_as(self.graph.weight)[self.index]

    def _sum(self, edge_index: Tensor, per_edge: Tensor, features: Tensor, like: Tensor) -> Tensor:
        """Weighted sums of features at the targets of edges, whose nodes are those of ``like``."""
        b, h, targets, _ = like.shape
        sums = self.passing(features.flatten(0, 2), edge_index, per_edge, b * h * targets)
        return sums.view(b, h, targets, features.shape[-1])
