"""Message passing over all pairs of nodes."""

from __future__ import annotations

from torch import Tensor

from attngraph.edges import Edges
from attngraph.graph import AttentionGraph
from attngraph.precision import widen


class DenseEdges(Edges):
    """All pairs. Numbers per edge broadcast to ``(b, h, n, m)``, and no array is wider than that."""

    graph: AttentionGraph

    def __init__(self, graph: AttentionGraph):
        super().__init__(graph)
        self.weight = widen(graph.weight)

    def query_degree(self) -> Tensor:
        return self.graph.query_degree()

    def value_degree(self, degree: str) -> Tensor:
        return self.graph.value_degree(degree)

    def to_queries(self, per_edge: Tensor, value: Tensor) -> Tensor:
        return per_edge @ value

    def to_values(self, per_edge: Tensor, query: Tensor) -> Tensor:
        return per_edge.transpose(-1, -2) @ query

    def sum_at_queries(self, per_edge: Tensor) -> Tensor:
        return per_edge.sum(-1, keepdim=True)

    def sum_at_values(self, per_edge: Tensor) -> Tensor:
        return per_edge.sum(-2)[..., None]

    def products(
        self, query: Tensor, value: Tensor, between: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        query_g = self.with_metric(query)
        norms_q = (query_g * query).sum(-1, keepdim=True)
        norms_v = self.square_norm(value)[..., None, :]
        pair = query_g if between is None else query @ between
        return norms_q, norms_v, pair @ value.transpose(-1, -2)

    def to_dense(self, per_edge: Tensor) -> Tensor:
        return per_edge.expand_as(self.weight)
