"""How messages move on an attention graph.

A scheme is written once, against :class:`Edges`; a backend (:mod:`attngraph.backends`) decides how the edges
are stored: as an array of all pairs, of all queries or of some at a time, or as a list of the non-zero edges.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeAlias

import torch
from torch import Tensor

from attngraph.graph import AttentionGraph
from attngraph.norms import KeptNorms, square_norm, with_metric
from attngraph.precision import widen
from attngraph.scores import AttentionScores

PerEdge: TypeAlias = Tensor
"""Numbers per edge, which broadcast against ``edges.weight``."""


class Edges(ABC):
    """The edges of a graph, and sums over them.

    Args:
        graph: an attention graph, or scores whose weights have not been computed yet.

    Attributes:
        graph: the same; not there where the edges are an edge list of PyG.
        weight: per edge, the attention weight (float32 or wider).
        query: ``(b, h, n, d)``, the query features in the same precision.
        value: ``(b, h, m, d)``, the value features in the same precision.
        metric: ``(h, d, d)`` Gram matrices of the output projection, or None for the identity.
        causal: messages may flow from values to queries only.
    """

    weight: PerEdge
    query: Tensor
    value: Tensor
    metric: Tensor | None = None
    causal: bool = False
    _kept_norms: KeptNorms | None = None

    def __init__(self, graph: AttentionGraph | AttentionScores):
        self.graph = graph
        self.causal = graph.causal
        query = graph.node if isinstance(graph, AttentionScores) else graph.query
        self.query, self.value = widen(query), widen(graph.value)
        self.metric = None if graph.metric is None else graph.metric.to(self.query.dtype)
        kept = graph.kept_norms
        self._kept_norms = kept if kept is not None and kept.value is graph.value else None

    @abstractmethod
    def query_degree(self) -> PerEdge:
        """Per edge, the degree of its query."""

    @abstractmethod
    def value_degree(self, degree: str) -> PerEdge:
        """Per edge, the degree of its value (as seen by its query in a causal graph).

        Args:
            degree: ``"sum"`` or ``"mean"``; see :meth:`AttentionGraph.value_degree`.
        """

    @abstractmethod
    def to_queries(self, per_edge: PerEdge, value: Tensor) -> Tensor:
        r""":math:`\sum_j w_{ij} v_j`, ``(b, h, n, d)``.

        Args:
            per_edge: the weights :math:`w_{ij}`.
            value: ``(b, h, m, d)``.
        """

    @abstractmethod
    def to_values(self, per_edge: PerEdge, query: Tensor) -> Tensor:
        r""":math:`\sum_i w_{ij} q_i`, ``(b, h, m, d)``.

        Args:
            per_edge: the weights :math:`w_{ij}`.
            query: ``(b, h, n, d)``.
        """

    @abstractmethod
    def sum_at_queries(self, per_edge: PerEdge) -> Tensor:
        r""":math:`\sum_j w_{ij}`, ``(b, h, n, 1)``."""

    @abstractmethod
    def sum_at_values(self, per_edge: PerEdge) -> Tensor:
        r""":math:`\sum_i w_{ij}`, ``(b, h, m, 1)``."""

    @abstractmethod
    def products(
        self, query: Tensor, value: Tensor, between: Tensor | None = None
    ) -> tuple[PerEdge, PerEdge, PerEdge]:
        r"""Per edge :math:`q_i G q_i^\top`, :math:`v_j G v_j^\top` and :math:`q_i G v_j^\top`.

        Args:
            query: ``(b, h, n, d)``.
            value: ``(b, h, m, d)``.
            between: ``(d, d)`` or ``(h, d, d)``, in the place of :math:`G` in the last of them only.
        """

    @abstractmethod
    def to_dense(self, per_edge: PerEdge) -> Tensor:
        """Per-edge numbers as ``(b, h, n, m)``, 0 where there is no edge."""

    def normalized(self, degree: str) -> PerEdge:
        r"""Per edge :math:`S_{ij} = M_{ij}/\sqrt{d_i e_{ij}}`, 0 where a degree is 0."""
        return self.weight * rsqrt(self.query_degree()) * rsqrt(self.value_degree(degree))

    def with_metric(self, x: Tensor) -> Tensor:
        """``x G`` per head, ``(b, h, n, d)``."""
        return with_metric(x, self.metric)

    def square_norm(self, value: Tensor) -> Tensor:
        r""":math:`v_j G v_j^\top`, ``(b, h, m)``; for the graph's own values it is computed once for all
        decoding steps, if norms are kept.

        Args:
            value: ``(b, h, m, d)``.
        """
        if self._kept_norms is None or value is not self.value:
            return square_norm(value, self.metric)
        return self._kept_norms.get(lambda some: square_norm(some, self.metric))


def smallest_weight(dtype: torch.dtype) -> float:
    """Weights and degrees at or below this count as 0: about 1e-19 in float32. Their messages are at most its
    square root times a feature, and the gradients of their powers would overflow."""
    return torch.finfo(dtype).tiny ** 0.5


def rsqrt(degree: PerEdge) -> PerEdge:
    """``1/√degree``, and 0 with a zero gradient where the degree is 0 (no edges); NaN stays NaN."""
    none = degree <= smallest_weight(degree.dtype)
    root = torch.where(none, torch.ones_like(degree), degree).rsqrt()
    return torch.where(none, torch.zeros_like(degree), root)


def square_distance(
    norm_q: PerEdge, norm_v: PerEdge, dot: PerEdge, rsqrt_d: PerEdge, rsqrt_e: PerEdge
) -> PerEdge:
    r"""Per edge :math:`R_{ij}^2 = \lVert q_i/\sqrt{d_i} - v_j/\sqrt{e_{ij}} \rVert^2`, bounded below by its
    rounding errors, :math:`8\epsilon (|q_i|^2/d_i + |v_j|^2/e_{ij})`.

    Args:
        norm_q, norm_v, dot: :math:`|q|^2`, :math:`|v|^2` and :math:`q \cdot v`; see :meth:`Edges.products`.
        rsqrt_d, rsqrt_e: :math:`1/\sqrt{d_i}` and :math:`1/\sqrt{e_{ij}}`.
    """
    lengths = norm_q * rsqrt_d.square() + norm_v * rsqrt_e.square()
    square = lengths - 2 * dot * (rsqrt_d * rsqrt_e)
    return torch.maximum(square, 8 * torch.finfo(square.dtype).eps * lengths + smallest_weight(square.dtype))
