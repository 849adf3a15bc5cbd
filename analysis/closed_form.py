r"""pGNN without the query: what its weights become where values have small degrees.

A value enters the message of pGNN (:class:`adapters.pgnn.PGNN`) with the weight

.. math::
    w_{ij} = \frac{M_{ij}^{p/2} R_{ij}^{p-2}}{\sqrt{d_i e_{ij}}}, \qquad
    R_{ij}^2 = \frac{|\hat V_i|^2}{d_i} + \frac{|\hat V_j|^2}{e_{ij}}
               - \frac{2\, \hat V_i \cdot \hat V_j}{\sqrt{d_i e_{ij}}} .

Where few queries share their weight among many values, as in cross-attention to a picture,
:math:`e_{ij} \ll 1`. Then :math:`R_{ij}^2 \to |\hat V_j|^2/e_{ij}`, and up to one factor for each query

.. math:: w_{ij} \to M_{ij}^{p/2}\, e_{ij}^{(1-p)/2}\, |\hat V_j|^{p-2},

in which the query's features no longer stand: the power of M, the value's degree and its length are all. It
fails where :math:`|\hat V_i|^2/d_i` is not small beside :math:`|\hat V_j|^2/e_{ij}`: in self-attention, where
:math:`e_{ij}` is about 1, and at sinks, values of large degree and little length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.bipartite import divide
from attngraph import AttentionGraph
from attngraph.backends import edges_of
from attngraph.edges import rsqrt, smallest_weight, square_distance


@dataclass(frozen=True, eq=False)
class ClosedForm:
    r"""How near pGNN is to the closed form, and how far from attention. All ``(b, h)``, NaN in a graph
    without edges.

    Args:
        r: Pearson's correlation, over the edges of a graph, of :math:`\log(w_{ij}/M_{ij})` of pGNN and of the
            closed form, each minus its mean over the query's edges. So the part that both share with M counts
            nothing, and neither does a query's own factor.
        variation: the total variation :math:`\frac12 \sum_j |\bar w_{ij} - \bar w'_{ij}|` between pGNN's
            weights and the closed form's, each scaled to sum to 1 over a query's edges; mean over queries.
        without_product: the same between pGNN's weights and those without the product
            :math:`\hat V_i \cdot \hat V_j` in :math:`R_{ij}^2`, which is then lengths and degrees alone.
        from_attention: the same between pGNN's weights and :math:`M_{ij}/d_i`.
    """

    r: Tensor
    variation: Tensor
    without_product: Tensor
    from_attention: Tensor


def closed_form(graph: AttentionGraph, p: float = 1.5, degree: str = "sum") -> ClosedForm:
    """pGNN's message weights beside their closed form.

    Args:
        graph: an attention graph; degrees are as the scheme sees them, in causal graphs those so far.
        p: exponent.
        degree: of the values, ``"sum"`` or ``"mean"``, see :meth:`attngraph.AttentionGraph.value_degree`.

    Raises:
        ValueError: another name for ``degree``.
    """
    edges = edges_of(graph)
    weight = edges.weight
    there = weight > smallest_weight(weight.dtype)
    log_m = torch.where(there, weight, 1).log()
    rsqrt_d, rsqrt_e = rsqrt(edges.query_degree()), rsqrt(edges.value_degree(degree))
    norm_q, norm_v, dot = edges.products(edges.query, edges.value)
    squares = (
        square_distance(norm_q, norm_v, dot, rsqrt_d, rsqrt_e),
        norm_v.clamp_min(smallest_weight(weight.dtype)) * rsqrt_e.square(),
        square_distance(norm_q, norm_v, torch.zeros_like(dot), rsqrt_d, rsqrt_e),
    )
    factors = [
        torch.where(there, (0.5 * p - 1) * (square.log() + log_m) + rsqrt_e.log(), 0) for square in squares
    ]  # log(w/M), up to the query's factor; (b, h, n, m)
    found, *others = (
        (factor + log_m).masked_fill(~there, -torch.inf).softmax(-1)
        for factor in (*factors, torch.zeros_like(log_m))
    )
    joined = there.any(-1)
    return ClosedForm(
        _correlation(*(_centred(factor, there) for factor in factors[:2])),
        *(_variation(found, other, joined) for other in others),
    )


def _centred(x: Tensor, there: Tensor) -> Tensor:
    """Minus its mean over the query's edges; 0 elsewhere."""
    mean = x.sum(-1, keepdim=True, dtype=torch.float64) / there.sum(-1, keepdim=True).clamp_min(1)
    return torch.where(there, x - mean, 0)


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    xy, xx, yy = (pair.sum((-2, -1)) for pair in (x * y, x * x, y * y))
    return divide(xy, (xx * yy).sqrt())


def _variation(x: Tensor, y: Tensor, joined: Tensor) -> Tensor:
    of_query = (x - y).abs().sum(-1, dtype=torch.float64) / 2
    return of_query.masked_fill(~joined, torch.nan).nanmean(-1)
