r"""Sums along edges that need the features at both ends: those of energies and of pGNN's closed form.

The products of features are computed once, for a graph, its null models and the closed form. To permute
features is to permute edges the other way: a permuted graph has the same products, which meet other weights
and degrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from attngraph.analysis.bipartite import Bipartite, Stream, positive
from attngraph.analysis.nulls import even_weight, rearranged, uniform
from attngraph.analysis.sums import EdgeSums, in_c, in_parts
from attngraph.edges import rsqrt, smallest_weight, square_distance

SHORTEST = 1e-12  # a shorter feature has no direction


class Along(NamedTuple):
    r"""Sums along the edges of a graph and its null models. ``graphs`` are the graph, then permuted graphs,
    then uniform attention.

    Args:
        backs: for each permuted graph, which node's edges each node's features meet, ``(b, m)``.
        degrees: what the nodes of the features have as degrees in each of the graphs,
            ``(b, h, graphs, n)`` and ``(b, h, graphs, m)``.
        energies: :math:`\sum A \cos(q, v)`, :math:`\sum A R^2` and :math:`\sum (A R^2)^{p/2}` with
            :math:`R = \lVert q/\sqrt d - v/\sqrt e \rVert`, ``(b, h, graphs, 3)``.
        form: for :class:`attngraph.analysis.closed_form.ClosedForm`, ``(b, h, 7)``: the sums of x y, x x and
            y y, where x is :math:`\log(w_{ij}/M_{ij})` of pGNN and y of the closed form, each minus its mean
            over the query's edges; of :math:`|\bar w_{ij} - \bar w'_{ij}|` for the three variations; and the
            number of queries with edges. None where it was not asked for.
    """

    backs: list[Tensor]
    degrees: tuple[Tensor, Tensor]
    energies: Tensor
    form: Tensor | None


def along_edges(
    graph: Bipartite,
    p: float,
    sums: Bipartite | EdgeSums,
    orders: Sequence[Tensor] = (),
    even: EdgeSums | None = None,
    roots: tuple[Tensor, Tensor] | None = None,
) -> Along:
    r"""The sums of a graph and of its null models.

    Args:
        graph: the graph.
        p: exponent of energies and of pGNN, at least 1.
        sums: the graph's: they hold its degrees.
        orders: of the nodes in permuted graphs (:func:`attngraph.analysis.nulls.rearranged`), each
            ``(b, m)``.
        even: those of uniform attention (:meth:`attngraph.analysis.sums.EdgeSums.uniform`), if it is asked
            for.
        roots: :math:`1/\sqrt{d_i}`, ``(b, h, n)``, and :math:`1/\sqrt{e_{ij}}`, ``(b, h, 1, m)`` or
            ``(b, h, n, m)``, as pGNN sees degrees, if the closed form is asked for; not of a stream.

    Raises:
        ValueError: p below 1.
    """
    if p < 1:
        raise ValueError(f"p must be at least 1, got {p}")
    backs = [order.argsort(-1) for order in orders]

    def of_graphs(name: str, moves: bool) -> Tensor:
        own = getattr(sums, name)
        moved = [own.gather(-1, back[:, None].expand_as(own)) if moves else own for back in backs]
        return torch.stack([own, *moved] + ([] if even is None else [getattr(even, name)]), 2)

    degrees = of_graphs("query_degree", graph.paired), of_graphs("value_degree", True)
    (b, h, n, m), d = graph.weight.shape, graph.features[0].shape[-1]
    query, value = (x.expand(b, h, nodes, d) for x, nodes in zip(graph.features, (n, m)))
    if not isinstance(graph, Stream):
        each = visible = None
        if even is not None:
            each = even_weight(graph, even.query_degree)
            visible = None if (graph.seen == m).all() else graph.visible.expand(b, n, m)
        back = torch.stack(backs, 1).int() if backs else None
        by_query = roots is not None and roots[1].shape[2] == n
        options = b * h, h, n, m, d, len(orders), graph.paired, by_query, float(p)
        inputs = graph.weight, query, value, *degrees, each, visible, back, *(roots or (None, None))
        sizes = (degrees[0].shape[2], 3), (7,)
        found = [graph.weight.new_zeros(b, h, *size, dtype=torch.float64) for size in sizes]
        if in_c("attngraph_along_edges", options, inputs, found):
            return Along(backs, degrees, found[0], None if roots is None else found[1])

    def energies(view: Bipartite, of: Bipartite | EdgeSums) -> Tensor:
        sides = zip(view.features, (of.query_degree, of.value_degree))
        q, v = ((x * rsqrt(degree)[..., None]).expand(b, h, -1, -1) for x, degree in sides)
        function = partial(_energies, p=p)
        if not isinstance(view, Stream):
            return torch.stack(in_parts(function, view.weight, q, v), -1)
        strips = [torch.stack(function(weight, q[:, :, rows], v), -1) for rows, weight in view.strips()]
        return torch.stack(strips).sum(0)

    of_all = [energies(graph, sums), *(energies(rearranged(graph, order), sums) for order in orders)]
    of_all += [] if even is None else [energies(uniform(graph), even)]
    form = None
    if roots is not None:
        form = torch.stack(in_parts(partial(_form, p=p), graph.weight, query, value, *roots), -1)
    return Along(backs, degrees, torch.stack(of_all, 2), form)


def _energies(weight: Tensor, q: Tensor, v: Tensor, p: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of features that are divided by the roots of the degrees."""
    length_q, length_v = (torch.linalg.vector_norm(x, dim=-1) for x in (q, v))
    square = q @ v.mT
    product = square * weight
    inverse_q, inverse_v = (1 / length.clamp(min=SHORTEST) for length in (length_q, length_v))
    cosine = ((product @ inverse_v[..., None])[..., 0] * inverse_q).sum(-1, dtype=torch.float64)
    torch.add(length_q.square()[..., None], length_v.square()[..., None, :], out=square)
    square.mul_(weight).sub_(product, alpha=2).clamp_(min=0)
    dirichlet = square.sum(-1).sum(-1, dtype=torch.float64)
    power = square.log2_().mul_(p / 2).exp2_()
    return cosine, dirichlet, power.sum(-1).sum(-1, dtype=torch.float64)


def _form(
    weight: Tensor, query: Tensor, value: Tensor, rsqrt_d: Tensor, rsqrt_e: Tensor, p: float
) -> tuple[Tensor, ...]:
    """Of the closed form."""
    least, exponent = smallest_weight(weight.dtype), 0.5 * p - 1
    norm_q, norm_v = query.square().sum(-1)[..., None], value.square().sum(-1)[..., None, :]
    rsqrt_d = rsqrt_d[..., None]
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
        """0 at queries without edges, whose shares are NaN."""
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
