"""How messages move on an attention graph. A scheme is written once, against :class:`Edges`; a backend decides how the
edges are stored: :class:`DenseEdges` as an ``(b, h, n, m)`` array, :class:`SparseEdges` as a PyG edge list,
:class:`attngraph.backends.tiled.TiledEdges` not at all: they are computed a tile at a time whenever they are summed over.

Everything "per edge" below has whatever shape the backend gives it, and broadcasts against ``edges.weight``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from attngraph.graph import AttentionGraph, _wide
from attngraph.scores import AttentionScores


class Edges(ABC):
    """The edges of a graph, and sums over them.

    Attributes:
        weight: per edge, the attention weight (float32 or wider).
        query: ``(b, h, n, d)`` and value: ``(b, h, m, d)``, the node features in the same precision.
        causal: messages may flow from values to queries only.
    """

    weight: Tensor
    query: Tensor
    value: Tensor

    def __init__(self, graph: AttentionGraph | AttentionScores):
        self.graph = graph
        self.causal = graph.causal
        query = graph.node if isinstance(graph, AttentionScores) else graph.query
        self.query, self.value = _wide(query), _wide(graph.value)
        self.metric = None if graph.metric is None else graph.metric.to(self.query.dtype)

    @abstractmethod
    def query_degree(self) -> Tensor:
        """Per edge, the degree of its query."""

    @abstractmethod
    def value_degree(self, degree: str) -> Tensor:
        """Per edge, the degree of its value (as seen by its query in a causal graph)."""

    @abstractmethod
    def to_queries(self, per_edge: Tensor, value: Tensor) -> Tensor:
        r""":math:`\sum_j w_{ij} v_j`: ``(b, h, n, d)`` from per-edge weights and value features."""

    @abstractmethod
    def to_values(self, per_edge: Tensor, query: Tensor) -> Tensor:
        r""":math:`\sum_i w_{ij} q_i`: ``(b, h, m, d)`` from per-edge weights and query features."""

    @abstractmethod
    def sum_at_queries(self, per_edge: Tensor) -> Tensor:
        r""":math:`\sum_j w_{ij}`, ``(b, h, n, 1)``."""

    @abstractmethod
    def sum_at_values(self, per_edge: Tensor) -> Tensor:
        r""":math:`\sum_i w_{ij}`, ``(b, h, m, 1)``."""

    @abstractmethod
    def products(self, query: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Per edge :math:`q_i G q_i^\top`, :math:`v_j G v_j^\top` and :math:`q_i G v_j^\top`."""

    @abstractmethod
    def to_dense(self, per_edge: Tensor) -> Tensor:
        """Per-edge numbers as ``(b, h, n, m)``, 0 where there is no edge."""

    def normalized(self, degree: str) -> Tensor:
        r"""Per edge :math:`S_{ij} = M_{ij}/\sqrt{d_i e_{ij}}`, 0 where a degree is 0."""
        return self.weight * rsqrt(self.query_degree()) * rsqrt(self.value_degree(degree))

    def with_metric(self, x: Tensor) -> Tensor:
        """``x G`` per head, ``(b, h, n, d)``."""
        return x if self.metric is None else x @ self.metric


class DenseEdges(Edges):
    """All pairs; no array is wider than ``(b, h, n, m)``."""

    def __init__(self, graph: AttentionGraph):
        super().__init__(graph)
        self.weight = _wide(graph.weight)

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

    def products(self, query: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query_g = self.with_metric(query)
        norms_q = (query_g * query).sum(-1, keepdim=True)
        norms_v = (self.with_metric(value) * value).sum(-1)[..., None, :]
        return norms_q, norms_v, query_g @ value.transpose(-1, -2)

    def to_dense(self, per_edge: Tensor) -> Tensor:
        return per_edge.expand_as(self.weight)


class SparseEdges(Edges):
    """The non-zero edges of all examples and heads as one disconnected bipartite PyG graph.

    Nodes of example ``b`` and head ``h`` are numbered ``(b·heads + h)·n + i`` (queries) and ``(b·heads + h)·m + j``
    (values); sums run through PyG message passing with torch-scatter.
    """

    def __init__(self, graph: AttentionGraph):
        from attngraph.backends.message_passing import WeightedSum

        super().__init__(graph)
        _, h, n, m, _ = graph.shape
        self.index = graph.weight.detach().nonzero(as_tuple=True)  # b, h, i, j of each edge
        b_index, h_index, i, j = self.index
        group = b_index * h + h_index
        self.query_node, self.value_node = group * n + i, group * m + j
        self.weight = _wide(graph.weight)[self.index]
        self.passing = WeightedSum()

    def _at_edges(self, dense: Tensor) -> Tensor:
        return dense.expand_as(self.graph.weight)[self.index]

    def query_degree(self) -> Tensor:
        return self._at_edges(self.graph.query_degree())

    def value_degree(self, degree: str) -> Tensor:
        return self._at_edges(self.graph.value_degree(degree))

    def to_queries(self, per_edge: Tensor, value: Tensor) -> Tensor:
        return self._pass(self.value_node, self.query_node, per_edge, value, like=self.query)

    def to_values(self, per_edge: Tensor, query: Tensor) -> Tensor:
        return self._pass(self.query_node, self.value_node, per_edge, query, like=self.value)

    def sum_at_queries(self, per_edge: Tensor) -> Tensor:
        return self.to_queries(per_edge, torch.ones_like(self.value[..., :1]))

    def sum_at_values(self, per_edge: Tensor) -> Tensor:
        return self.to_values(per_edge, torch.ones_like(self.query[..., :1]))

    def _pass(
        self, source: Tensor, target: Tensor, per_edge: Tensor, features: Tensor, like: Tensor
    ) -> Tensor:
        x, size = features.flatten(0, 2), like.shape[0] * like.shape[1] * like.shape[2]
        out = self.passing(x, torch.stack([source, target]), per_edge, size)
        return out.view(*like.shape[:3], features.shape[-1])

    def products(self, query: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query_g = self.with_metric(query)
        norms_q = (query_g * query).sum(-1).flatten()[self.query_node]
        norms_v = (self.with_metric(value) * value).sum(-1).flatten()[self.value_node]
        pairs = query_g.flatten(0, 2)[self.query_node] * value.flatten(0, 2)[self.value_node]
        return norms_q, norms_v, pairs.sum(-1)

    def to_dense(self, per_edge: Tensor) -> Tensor:
        return torch.zeros_like(_wide(self.graph.weight)).index_put(self.index, per_edge)


def _tiled(graph: AttentionGraph | AttentionScores) -> Edges:
    from attngraph.backends.tiled import TiledEdges

    return TiledEdges(graph)


BACKENDS = {"dense": DenseEdges, "sparse": SparseEdges, "tiled": _tiled}


def edges_of(graph: AttentionGraph | AttentionScores, backend: str = "dense") -> Edges:
    """The graph's edges in the form of a backend. Only ``"tiled"`` leaves the weights of scores uncomputed.

    Raises:
        ValueError: an unknown backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend != "tiled" and isinstance(graph, AttentionScores):
        graph = graph.graph()
    return BACKENDS[backend](graph)


def floor(dtype: torch.dtype) -> float:
    """Weights and degrees at or below this count as 0: about 1e-19 in float32. Their messages are at most its square
    root times a feature, and the gradients of their powers would overflow."""
    return torch.finfo(dtype).tiny ** 0.5


def rsqrt(degree: Tensor) -> Tensor:
    """``1/√degree``, and 0 with a zero gradient where the degree is 0 (a node without edges)."""
    positive = degree > floor(degree.dtype)
    return torch.where(
        positive, torch.where(positive, degree, torch.ones_like(degree)).rsqrt(), torch.zeros_like(degree)
    )
