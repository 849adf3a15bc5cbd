r"""The effect of a scheme on a query in a few numbers: the weight of its message, and the message's
direction.

A learned exponent says little by itself: p, μ, the degrees and a join's weight compensate for one another.
These numbers compare the results instead. With a query's aggregated features :math:`\bar U_i`, the weight of
its residual :math:`\beta_i` (:meth:`attngraph.adapters.scheme.Scheme.residual_share`) and its attention
output :math:`U_i`,

- :math:`\kappa_i = 1 - \beta_i`, the weight of the message;
- :math:`\text{moved}_i = \frac12 \sum_j \Big| \frac{\bar w_{ij}}{\sum_k \bar w_{ik}} -
  \frac{M_{ij}}{\sum_k M_{ik}} \Big|`, the fraction of attention mass that the scheme moves to other values:
  total variation, from 0 to 1. The weights :math:`\bar w` are those with which values enter the message,
  degrees included (:meth:`attngraph.adapters.scheme.Scheme.message_weights`);
- :math:`\text{length}_i = \lVert m_i \rVert / \lVert U_i \rVert` and :math:`\text{cosine}_i = \cos(m_i, U_i)`
  of the message :math:`m_i = \bar U_i - \beta_i \hat V_i`, which is what comes from values;
- the same of the whole :math:`\bar U_i`, the residual included.

Source: ours. The first two are per query and head. Lengths and cosines are those after :math:`W_o` with the
heads summed, before :math:`b_o`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attngraph.adapters.query_rows import with_query_rows
from attngraph.adapters.rescale import length_factor, square_length
from attngraph.adapters.scheme import Scheme
from attngraph.backends import edges_of
from attngraph.edges import smallest_weight
from attngraph.graph import AttentionGraph
from attngraph.precision import widen
from attngraph.reading.heads import merge_heads


@dataclass(frozen=True)
class Effect:
    r"""Effect of a scheme, averaged over queries (and heads); see :mod:`attngraph.adapters.effects`.

    The averages are NaN where no query counts.

    Attributes:
        kappa: weight of the message, :math:`1 - \beta`. 1 for a scheme without residual.
        moved: fraction of attention mass that moves to other values, also through degrees, in [0, 1].
        length: norm of the message divided by the norm of the attention output :math:`U`.
        cosine: cosine between the message and :math:`U`.
        whole_length, whole_cosine: the same for :math:`\bar U`, residual included.
        queries: number of queries averaged over: valid ones that see a value in every head and whose
            attention output is not 0.
        p: the scheme's exponent, learned or fixed; None for a scheme without exponent.
        share: weight of the ``blend`` join; None for other joins.
    """

    kappa: float
    moved: float
    length: float
    cosine: float
    whole_length: float
    whole_cosine: float
    queries: int
    p: float | None = None
    share: float | None = None


class EffectTally:
    """The effect of one scheme on several graphs, every query counting the same.

    Args:
        scheme: the scheme.
        output: :math:`W_o` ``(h·d, width)``, by which rows of merged heads are multiplied from the right.
            Default: none, so that heads remain separate.
        top_k: keep only each query's heaviest edges before the scheme runs, as the adapter's option does.
        rescale: see :func:`attngraph.adapters.rescale.rescaled`; ``whole_length`` is then 1.
        share: weight of the ``blend`` join, copied into the effect.
        query_rows: features of the query nodes; see :func:`attngraph.adapters.query_rows.with_query_rows`.
    """

    def __init__(
        self,
        scheme: Scheme,
        output: Tensor | None = None,
        top_k: int | None = None,
        rescale: bool = False,
        share: float | None = None,
        query_rows: str = "query",
    ):
        self.query_rows = query_rows
        self.scheme, self.output, self.top_k, self.rescale = scheme, output, top_k, rescale
        self.share = share
        self._sums: Any = 0.0
        self._queries = 0

    @torch.no_grad()
    def add(self, graph: AttentionGraph) -> None:
        """Count the queries of a graph, whose features are those before :math:`W_o`."""
        with torch.autocast(graph.query.device.type, enabled=False):
            numbers = self._numbers(graph)
        self._sums = self._sums + numbers.double().sum(0).cpu()
        self._queries += len(numbers)

    def effect(self) -> Effect:
        """The averages so far."""
        means = [float("nan")] * 6
        if self._queries:
            means = (self._sums / self._queries).tolist()
        kappa, moved, length, cosine, whole_length, whole_cosine = means
        p = getattr(self.scheme, "p", None)
        p = p if p is None else float(torch.as_tensor(p).detach())
        return Effect(
            kappa, moved, length, cosine, whole_length, whole_cosine, self._queries, p=p, share=self.share
        )

    def _numbers(self, graph: AttentionGraph) -> Tensor:
        """κ, moved, and length and cosine of message and whole, for each query that counts: ``(queries,
        6)``."""
        b, h, n, _, _ = graph.shape
        graph = with_query_rows(graph, self.query_rows)
        before = edges_of(graph)
        edges = before if self.top_k is None else edges_of(graph.sparsify(top_k=self.top_k))
        share = torch.as_tensor(self.scheme.residual_share(edges), dtype=edges.query.dtype).to(edges.query)
        share = share.expand(b, h, n, 1)
        whole = self.scheme.propagate(edges)
        message = whole - share * edges.query
        plain = before.to_queries(before.weight, before.value)
        u, m, w = (self._project(merge_heads(x)) for x in (plain, message, whole))
        if self.rescale:
            factor = length_factor(w, u)
            m, w = factor * m, factor * w
        moved = _moved(edges.to_dense(self.scheme.message_weights(edges)), before.weight)
        seen = (before.weight.sum(-1) > smallest_weight(u.dtype)).all(1) & (square_length(u)[..., 0] > 0)
        columns = [1 - share[..., 0].mean(1), moved.mean(1), *_compare(m, u), *_compare(w, u)]
        return torch.stack(columns, -1)[seen]

    def _project(self, x: Tensor) -> Tensor:
        return x if self.output is None else x @ widen(self.output).to(x)


def _moved(weight: Tensor, attention: Tensor) -> Tensor:
    """Total variation of two edge weights ``(b, h, n, m)``, each as a share of its row: ``(b, h, n)``."""
    least = smallest_weight(attention.dtype)
    new, old = (x / x.sum(-1, keepdim=True).clamp(min=least) for x in (weight, attention))
    return 0.5 * (new - old).abs().sum(-1)


def _compare(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Length of rows over that of others, and the cosine of both, ``(b, n)``; the cosine with 0 is 0."""
    least = smallest_weight(x.dtype)
    of_x, of_u = (square_length(y)[..., 0] for y in (x, u))
    cosine = (x * u).sum(-1) / (of_x.clamp(min=least) * of_u.clamp(min=least)).sqrt()
    return (of_x / of_u.clamp(min=least)).sqrt(), cosine
