"""Attention that has not been computed yet: what an attention graph's edges come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attngraph import checks
from attngraph.checks import unchecked
from attngraph.degrees import PastDegree, check_degree, mean_scale
from attngraph.graph import AttentionGraph
from attngraph.norms import KeptNorms
from attngraph.precision import widen

LOG2_E = 1 / math.log(2)
HIDDEN = -1e30  # the score of a hidden edge: its weight is exactly 0, and no arithmetic on it overflows
HIDES_BELOW = -9e3
"""An additive mask at or below this hides an edge: models use -1e4, -1e9, the type's lowest number and
-inf."""
STRIP = 256  # queries whose mask is looked at together


@dataclass(frozen=True, eq=False)
class AttentionScores:
    r"""The attention graph of :math:`M = \mathrm{softmax}(s\, Q K^\top + \text{mask})` before :math:`M` is
    computed.

    :meth:`graph` computes it. Schemes work from the scores alone where they can
    (:meth:`attngraph.adapters.scheme.Scheme.aggregate_and_context`), so that no array of all edges is kept,
    or even made.

    Args:
        query: projected queries, biases included, ``(b, h, n, d)``, in the form compared with the keys.
        key: ``(b, h, m, d)``.
        value: projected values, biases included, ``(b, h, m, d)``.
        scale: the factor of the scores: a number, or a tensor that broadcasts against ``query`` and may be
            trained. Default: :math:`1/\sqrt d`.
        mask: broadcastable to ``(b, 1, n, m)``: bool (True = visible), or numbers that are added to the
            scores, where :data:`HIDES_BELOW` or less hides an edge. Not trained.
        query_mask: ``(b, n)`` bool, False for padded queries. Default: all valid.
        triangular: query i sees values up to ``i + m - n`` only (self-attention of a decoder), without a mask
            in memory.
        causal: the queries are ordered in time; see :class:`AttentionGraph`.
        metric: ``(h, d, d)``, as in :class:`AttentionGraph`. Default: the identity.
        past_degree: degrees left by earlier queries; only for causal graphs.
        feature: the query nodes' features, ``(b, h, n, d)``, where ``query`` is changed before it is compared
            (rotary embedding). Default: ``query``.
        kept: which weights dropout keeps, bool ``(b, h, n, m)``; the others are 0 in the graph. Default: all.
        dropout: its probability, at least 0 and below 1; weights that are kept are divided by 1 less it.
        picture: the number of the first example with the same image, int64 ``(b,)``: its keys and values are
            the same, and results that depend on these alone are computed once. Default: unknown.
        kept_norms: as in :class:`AttentionGraph`.
        known_weight: the weights where a model has computed them already, ``(b, h, n, m)``: after dropout,
            0 where an edge is hidden, padded queries like all others. They are used wherever weights are
            needed.

    Raises:
        ValueError: shapes or types that do not fit; the message names the argument.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float | Tensor = None  # type: ignore[assignment]  # filled in below
    mask: Tensor | None = None
    query_mask: Tensor | None = None
    triangular: bool = False
    causal: bool = False
    metric: Tensor | None = None
    past_degree: PastDegree | None = None
    feature: Tensor | None = None
    kept: Tensor | None = None
    dropout: float = 0.0
    picture: Tensor | None = None
    kept_norms: KeptNorms | None = None
    known_weight: Tensor | None = None

    def __post_init__(self):
        b, h, n, m, d = checks.check_nodes(self.query, self.value)
        checks.check_shape("key", self.key, tuple(self.value.shape), like="value")
        checks.check_numbers("key", self.key)
        checks.check_numbers("feature", self.feature)
        checks.check_shape("feature", self.feature, tuple(self.query.shape), like="query")
        checks.check_mask("query_mask", self.query_mask, (b, n))
        checks.check_shape("metric", self.metric, (h, d, d))
        checks.check_past_degree(self.past_degree, self.causal, b, h, m)
        if self.mask is not None:
            if self.mask.dtype != torch.bool and not self.mask.is_floating_point():
                raise ValueError(
                    "mask must be bool (True = visible) or floating-point numbers that are added to the "
                    f"scores, got {self.mask.dtype}: convert it with .bool()"
                )
            shape = (1,) * (4 - self.mask.dim()) + tuple(self.mask.shape)
            if len(shape) != 4 or any(got not in (1, want) for got, want in zip(shape, (b, 1, n, m))):
                raise ValueError(
                    f"mask must be broadcastable to ({b}, 1, {n}, {m}), got {tuple(self.mask.shape)}"
                )
            if self.mask.requires_grad:
                raise ValueError("mask must not require gradients: learned biases are not supported")
            object.__setattr__(self, "mask", self.mask.view(shape))
        checks.check_mask("kept", self.kept, (b, h, n, m), true="kept")
        checks.check_shape("known_weight", self.known_weight, (b, h, n, m))
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout:g}")
        if self.dropout and self.kept is None:
            raise ValueError("dropout needs kept=, the mask of weights that it keeps: pass it too")
        checks.check_shape("picture", self.picture, (b,))
        if self.scale is None:
            object.__setattr__(self, "scale", 1 / math.sqrt(d))

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """``(b, h, n, m, d)``."""
        b, h, n, d = self.query.shape
        return b, h, n, self.value.shape[2], d

    @property
    def node(self) -> Tensor:
        """The query nodes' features, ``(b, h, n, d)``."""
        return self.query if self.feature is None else self.feature

    @property
    def growth(self) -> float:
        """Factor of the weights that dropout keeps."""
        return 1 / (1 - self.dropout)

    @property
    def masked(self) -> bool:
        """Whether any edge may be hidden or biased."""
        return self.mask is not None or self.query_mask is not None or self.triangular

    def visible(self, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor | None:
        """Which edges of a tile may exist: bool, broadcastable to ``(b, 1, rows, columns)``; None when all
        may."""
        _, _, n, m, _ = self.shape
        seen = None
        if self.mask is not None:
            mask = cut_mask(self.mask, rows, columns)
            seen = mask if mask.dtype == torch.bool else mask > HIDES_BELOW
        if self.query_mask is not None:
            valid = self.query_mask[:, None, rows, None]
            seen = valid if seen is None else seen & valid
        queries, values = range(n)[rows], range(m)[columns]
        if self.triangular and queries and values and values[-1] > queries[0] + m - n:
            i, j = (torch.arange(x.start, x.stop, device=self.query.device) for x in (queries, values))
            before = (j <= i[:, None] + (m - n))[None, None]
            seen = before if seen is None else seen & before
        return seen

    def mask_(
        self,
        scores: Tensor,
        rows: slice = slice(None),
        columns: slice = slice(None),
        unit: float = 1.0,
        of: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Tensor:
        """Add the mask to a tile of scores in place; hidden edges get :data:`HIDDEN`.

        Args:
            unit: the unit of the scores, as a factor of the mask's numbers.
            of: picks from a tensor ``(b or 1, 1, ...)`` what belongs to the scores, if they are not ``(b, h,
                ...)``.
        """
        if self.mask is not None and self.mask.dtype != torch.bool:
            scores += of(cut_mask(self.mask, rows, columns)).to(scores.dtype) * unit
        visible = self.visible(rows, columns)
        return scores if visible is None else scores.masked_fill_(~of(visible), HIDDEN)

    def degree_scale(self, degree: str) -> Tensor | None:
        """Factor from sums of weights to ``degree``: None for ``"sum"``, else broadcastable to
        ``(b, 1, n, 1)``; see :meth:`AttentionGraph.value_degree`."""
        check_degree(degree)
        if degree == "sum":
            return None
        b, _, n, _, _ = self.shape
        rows = self.query_mask
        if rows is None:
            rows = torch.ones(b, n, dtype=torch.bool, device=self.query.device)
        values = self._visible_values().to(widen(self.query).dtype)
        return mean_scale(values, rows, self.causal, self.past_degree)

    def _visible_values(self) -> Tensor:
        """Number of values that each query sees, ``(b, n)``; in a graph without order, the number that any
        query sees, ``(b, 1)``."""
        b, _, n, m, _ = self.shape
        if not self.masked:
            return torch.full((b, n if self.causal else 1), m, device=self.query.device)
        counts, visible = [], torch.zeros(b, m, dtype=torch.bool, device=self.query.device)
        for seen in self._strips():
            counts.append(seen.sum(-1))
            visible |= seen.any(1)
        return torch.cat(counts, 1) if self.causal else visible.sum(-1, keepdim=True)

    def query_degree(self) -> Tensor:
        """``(b, h, n, 1)``: 1, or 0 for a query that sees nothing. Softmax rows sum to 1 for all scores, so
        this has no gradient; under dropout it is the sum of the remaining weights."""
        if self.kept is not None:
            return self.weight().sum(-1, keepdim=True)
        b, h, n, m, _ = self.shape
        one = torch.ones((), dtype=widen(self.query).dtype, device=self.query.device)
        if not self.masked and m:
            return one.expand(b, h, n, 1)
        seen = torch.cat([seen.any(-1) for seen in self._strips()], 1)
        return seen.to(one.dtype)[:, None, :, None].expand(b, h, n, 1)

    def _strips(self) -> Iterator[Tensor]:
        """:meth:`visible` as ``(b, some rows, m)``: a triangle is never held whole."""
        b, _, n, m, _ = self.shape
        for start in range(0, max(1, n), STRIP):
            rows = slice(start, min(start + STRIP, n))
            seen = self.visible(rows)
            if seen is None:
                seen = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=self.query.device)
            yield seen.expand(b, 1, rows.stop - start, m)[:, 0]

    def without_query_mask(self) -> AttentionScores:
        """The same scores with padded queries as valid ones: they see all values that the mask does not hide,
        as in the model."""
        return self if self.query_mask is None else unchecked(self, query_mask=None)

    def without_padded(self, x: Tensor) -> Tensor:
        """``x``, ``(b, h, n, .)``, with 0 in the rows of padded queries."""
        return x if self.query_mask is None else x.masked_fill(~self.query_mask[:, None, :, None], 0)

    def weight(self) -> Tensor:
        """The attention weights :math:`M`, after dropout where there is any, ``(b, h, n, m)``; rows of
        queries that see nothing are 0."""
        if self.known_weight is not None:
            return self.without_padded(widen(self.known_weight))
        scores = self.mask_((widen(self.query) * self.scale) @ widen(self.key).transpose(-1, -2))
        visible = self.visible()
        weight = scores.softmax(-1) if visible is None else scores.softmax(-1) * visible
        return weight if self.kept is None else weight * self.kept * self.growth

    def graph_and_context(self) -> tuple[AttentionGraph, Tensor]:
        """The attention graph, in which padded queries have no edges, and the attention output :math:`M V` of
        all queries, padded ones too, ``(b, h, n, d)``, from the same weights."""
        weight = self.without_query_mask().weight().to(self.query.dtype)
        return self.graph_of(self.without_padded(weight)), weight @ self.value

    def graph(self) -> AttentionGraph:
        """The attention graph with its weights."""
        return self.graph_of(self.weight().to(self.query.dtype))

    def graph_of(self, weight: Tensor) -> AttentionGraph:
        """The attention graph with these weights, ``(b, h, n, m)``."""
        visible = self.visible()
        b, _, n, m, _ = self.shape
        graph = AttentionGraph(
            self.node,
            self.value,
            weight,
            causal=self.causal,
            metric=self.metric,
            past_degree=self.past_degree,
            kept_norms=self.kept_norms,
        )
        value_mask = None if visible is None else visible.expand(b, 1, n, m)[:, 0]
        return unchecked(graph, query_mask=self.query_mask, value_mask=value_mask)  # weights are masked

    def following(self, past: PastDegree | None, norms: KeptNorms | None = None) -> AttentionScores:
        """The same scores with ``past_degree`` and ``kept_norms``."""
        b, h, _, m, _ = self.shape
        checks.check_past_degree(past, self.causal, b, h, m)
        return unchecked(self, past_degree=past, kept_norms=norms)

    def refuse_dropout(self) -> None:
        """Check that there is no dropout, for code that holds no array of all edges.

        Raises:
            ValueError: there is dropout, whose mask is such an array.
        """
        if self.kept is not None:
            raise ValueError('the tiled backend does not support kept=: use "dense", or no dropout')

    def without_features(self) -> AttentionScores:
        """The same scores without tensors that would outlive a checkpoint: queries, keys, values, their
        norms, and the mask of dropout."""
        nothing = self.query.new_empty(())
        query, key = nothing.expand(self.query.shape), nothing.expand(self.key.shape)
        empty = dict.fromkeys(("feature", "kept", "kept_norms", "known_weight"))
        return unchecked(self, query=query, key=key, value=key, dropout=0.0, **empty)

    def wide(self) -> AttentionScores:
        """The same in float32 where it was in half precision."""
        metric = None if self.metric is None else widen(self.metric)
        feature = None if self.feature is None else widen(self.feature)
        return unchecked(
            self,
            query=widen(self.query),
            key=widen(self.key),
            value=widen(self.value),
            metric=metric,
            feature=feature,
        )


def cut_mask(mask: Tensor, rows: slice, columns: slice) -> Tensor:
    """A tile of a mask whose rows or columns may be shared."""
    if mask.shape[2] > 1:
        mask = mask[:, :, rows]
    return mask if mask.shape[3] == 1 else mask[..., columns]
