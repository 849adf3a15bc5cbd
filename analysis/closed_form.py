r"""pGNN without the query: what its weights become where values have small degrees.

A value enters the message of pGNN (:class:`attngraph.adapters.pgnn.PGNN`) with the weight

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
from functools import partial

import torch
from torch import Tensor

from attngraph import AttentionGraph
from attngraph.analysis.bipartite import divide, positive
from attngraph.analysis.sums import in_c, in_parts
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
    query, value = edges.with_metric(edges.query), edges.value
    norms = (query * edges.query).sum(-1)[..., None], edges.square_norm(value)[..., None, :]
    roots = rsqrt(edges.query_degree()), rsqrt(edges.value_degree(degree))
    (b, h, n, m), d = edges.weight.shape, query.shape[-1]
    views = roots[1].shape[2]  # of the values' degrees: one, or in a causal graph one for each query
    sizes = (n, m), (n, d), (m, d), (n, 1), (1, m), (n, 1), (views, m)
    inputs = [x.expand(b, h, *size) for x, size in zip((edges.weight, query, value, *norms, *roots), sizes)]
    options = b * h, n, m, d, views == n, float(p)
    found = torch.empty(b, h, 7, dtype=torch.float64, device=query.device)
    if not in_c("attngraph_closed_form", options, inputs, [found]):
        found = torch.stack(in_parts(partial(_sums, p=p), *inputs), -1)
    xy, xx, yy, form, lengths, weight, queries = found.unbind(-1)
    variations = (divide(x, 2 * queries) for x in (form, lengths, weight))
    return ClosedForm(divide(xy, (xx * yy).sqrt()), *variations)


def _sums(
    weight: Tensor,
    query: Tensor,
    value: Tensor,
    norm_q: Tensor,
    norm_v: Tensor,
    rsqrt_d: Tensor,
    rsqrt_e: Tensor,
    p: float,
) -> tuple[Tensor, ...]:
    r"""The sums over edges of x y, x x and y y, where x is :math:`\log(w_{ij}/M_{ij})` of pGNN and y of the
    closed form, each minus its mean over the query's edges; of :math:`|\bar w_{ij} - \bar w'_{ij}|` for the
    three variations; and the number of queries with edges. In C: ``edges.c``.

    ``query`` is in the metric of the output projection, norms and roots broadcast to ``(b, h, n, m)``.
    """
    least, exponent = smallest_weight(weight.dtype), 0.5 * p - 1
    gone = None if weight.numel() and weight.amin() > least else weight <= least
    edges = (
        torch.full_like(weight[..., :1], weight.shape[-1]) if gone is None else (~gone).sum(-1, keepdim=True)
    )
    log_m, log_e = weight.clamp(min=least).log_(), rsqrt_e.clamp_min(least).log()

    def centred(factor: Tensor) -> Tensor:
        """Minus its mean over the query's edges; 0 elsewhere."""
        factor = factor if gone is None else factor.masked_fill_(gone, 0)
        factor.sub_(factor.sum(-1, keepdim=True) / edges)
        return factor if gone is None else factor.masked_fill_(gone, 0)

    def share(factor: Tensor) -> Tensor:
        factor.add_(log_m)
        return (factor if gone is None else factor.masked_fill_(gone, -torch.inf)).softmax(-1)

    def distance(other: Tensor) -> Tensor:
        """0 at queries without edges, whose shares are no numbers."""
        apart = other.sub_(own).abs_().sum(-1)
        return torch.where(edges[..., 0] > 0, apart, 0).sum(-1, dtype=torch.float64)

    # log(w/M), up to the query's factor: of pGNN, of lengths and degrees alone, and of the closed form
    square = square_distance(norm_q, norm_v, query @ value.mT, rsqrt_d, rsqrt_e)
    found = centred(square.log_().add_(log_m).mul_(exponent).add_(log_e))
    lengths = (norm_q * rsqrt_d.square() + norm_v * rsqrt_e.square()).clamp_(min=least)
    of_lengths = lengths.log_().add_(log_m).mul_(exponent).add_(log_e)
    of_value = (norm_v.clamp_min(least) * rsqrt_e.square()).clamp_min_(least).log_()
    form = centred((log_m * exponent).add_(of_value.mul_(exponent).add_(log_e)))
    correlation = [
        torch.linalg.vecdot(*pair).sum(-1, dtype=torch.float64)
        for pair in ((found, form), (found, found), (form, form))
    ]
    own = share(found)
    attention = weight / positive(weight.sum(-1, keepdim=True))
    distances = map(distance, (share(form), share(of_lengths), attention))
    return *correlation, *distances, (edges[..., 0] > 0).sum(-1, dtype=torch.float64)
