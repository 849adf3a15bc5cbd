"""One example and head of an attention graph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attngraph.degrees import PastDegree
from attngraph.precision import widen

UNKNOWN = -1  # the modality of a node that stands for neither text (0) nor image (1), as far as is known
GRAPH_FIELDS = ("causal", "kind", "rotated", "visible", "past_queries", "metric")  # not of nodes or edges


@dataclass(frozen=True, eq=False)
class GraphPart:
    """One example and one head of an attention graph, without the dimensions of examples and heads.

    Args:
        query: ``(n, d)``.
        value: ``(m, d)``.
        weight: ``(n, m)``.
        query_valid: bool ``(n,)``, or None if all are valid.
        value_visible: bool ``(m,)``, or ``(n, m)`` where each query sees its own values; None if all are
            visible.
        causal: the queries are ordered in time.
        span: the queries that count in the degrees that each query sees, ``(n, 2)``; see
            :class:`attngraph.AttentionGraph`.
        metric: ``(d, d)``, or None for the identity.
        kind: ``"self"``, ``"cross"`` or None.
        query_is_image: bool ``(n,)``, which queries stand for parts of an image; None if unknown.
        value_is_image: bool ``(m,)``, the same for values.
        rotated: query features carry rotary positions.
        past_degree: degrees left by earlier queries, ``(m,)``, and how many these were, ``()``.
    """

    query: Tensor
    value: Tensor
    weight: Tensor
    query_valid: Tensor | None = None
    value_visible: Tensor | None = None
    causal: bool = False
    metric: Tensor | None = None
    kind: str | None = None
    query_is_image: Tensor | None = None
    value_is_image: Tensor | None = None
    rotated: bool = False
    span: Tensor | None = None
    past_degree: PastDegree | None = None

    def valid(self) -> tuple[Tensor, Tensor]:
        """Which queries are valid, ``(n,)``, and which values any query sees, ``(m,)``."""
        n, m = self.weight.shape
        rows, columns = self.query_valid, self.value_visible
        if rows is None:
            rows = torch.ones(n, dtype=torch.bool, device=self.weight.device)
        if columns is None:
            columns = torch.ones(m, dtype=torch.bool, device=self.weight.device)
        return rows, columns.any(0) if columns.dim() == 2 else columns

    def modality(self) -> tuple[Tensor, Tensor]:
        """The modality of every query ``(n,)`` and every value ``(m,)``: 0 text, 1 image, -1 unknown."""
        n, m = self.weight.shape
        device = self.weight.device
        query, value = self.query_is_image, self.value_is_image
        return (
            torch.full((n,), UNKNOWN, device=device) if query is None else query.long(),
            torch.full((m,), UNKNOWN, device=device) if value is None else value.long(),
        )

    def edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, value and weight of each edge, ``(e,)`` each."""
        i, j = self.weight.nonzero(as_tuple=True)
        return i, j, self.weight[i, j]

    def order(self) -> tuple[Tensor, Tensor]:
        """The first and the last query that count for each query in a causal graph, ``(n, 2)``, and the
        degrees left by earlier queries, ``(m,)``."""
        n, m = self.weight.shape
        span, past = self.span, self.past_degree
        if span is None:
            last = torch.arange(n, device=self.weight.device)
            span = torch.stack([torch.full_like(last, 0 if past is None else -1), last], -1)
        return span, widen(self.weight).new_zeros(m) if past is None else past.total

    def gram(self) -> Tensor:
        """The metric, ``(d, d)``."""
        d = self.query.shape[-1]
        return (
            torch.eye(d, dtype=self.query.dtype, device=self.query.device)
            if self.metric is None
            else self.metric
        )

    def graph_fields(self) -> dict[str, str | bool | int | float]:
        """What has no place on nodes or edges, and goes on the graph itself."""
        visible, rows = self.value_visible, []
        if visible is not None and visible.dim() == 2:
            rows = (visible.byte() + ord("0")).tolist()
        return {
            "causal": self.causal,
            "kind": self.kind or "",
            "rotated": self.rotated,
            "visible": " ".join(bytes(row).decode() for row in rows),
            "past_queries": 0 if self.past_degree is None else self.past_degree.queries.item(),
        }
