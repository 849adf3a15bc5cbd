r"""The steps of p-Laplacian message passing, in tensor operations; see :class:`adapters.pgnn.PGNN`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from attngraph.edges import Edges, PerEdge, rsqrt, smallest_weight, square_distance

Weigh: TypeAlias = Callable[[Edges, Tensor, Tensor, PerEdge, PerEdge, "Tensor | float"], PerEdge]
r"""What weighs the edges of a step: ``weigh(edges, query, value, rsqrt_d, rsqrt_e, p)`` with the current
features ``(b, h, n, d)`` and ``(b, h, m, d)`` and, per edge, :math:`1/\sqrt{d_i}` and
:math:`1/\sqrt{e_{ij}}`. It returns a number per edge, 0 where there is no edge."""


class StepResult(NamedTuple):
    r"""Result of some steps.

    Attributes:
        query: the query features :math:`\bar U`, ``(b, h, n, d)``.
        weight: the weights :math:`\bar M` of the last step, per edge.
        message: :math:`\bar M_{ij} / \sqrt{d_i e_j}` of the last step, per edge.
        residual_share: :math:`\beta` of the last step, ``(b, h, n, 1)``.
    """

    query: Tensor
    weight: PerEdge
    message: PerEdge
    residual_share: Tensor


def p_weight(
    edges: Edges, query: Tensor, value: Tensor, rsqrt_d: PerEdge, rsqrt_e: PerEdge, p: Tensor | float
) -> PerEdge:
    r"""pGNN's: :math:`M^{p/2} R^{p-2}`."""
    return distance_weight(edges, *edges.products(query, value), rsqrt_d, rsqrt_e, p)


def distance_weight(
    edges: Edges,
    norm_q: PerEdge,
    norm_v: PerEdge,
    dot: PerEdge,
    rsqrt_d: PerEdge,
    rsqrt_e: PerEdge,
    p: Tensor | float,
) -> PerEdge:
    r""":math:`M^{p/2} R^{p-2}` from what the distances are made of, per edge: :math:`|q|^2`, :math:`|v|^2`
    and :math:`q \cdot v`."""
    square = square_distance(norm_q, norm_v, dot, rsqrt_d, rsqrt_e)
    return power_weight(edges, p, (0.5 * p - 1) * square.log())


def power_weight(edges: Edges, p: Tensor | float, log_factor: PerEdge | float = 0.0) -> PerEdge:
    r""":math:`M^{p/2} e^f`, 0 where there is no edge.

    Args:
        edges: of the attention graph.
        p: exponent.
        log_factor: :math:`f`, per edge.
    """
    weight = edges.weight
    absent = weight <= smallest_weight(weight.dtype)  # a weight that is NaN is there
    log_weight = torch.where(absent, torch.ones_like(weight), weight).log()
    power = 0.5 * p * log_weight + log_factor
    return torch.where(absent, torch.zeros_like(power), power.exp())


def p_steps(
    edges: Edges,
    p: Tensor | float,
    residual: Tensor | float,
    degree: str = "sum",
    steps: int = 1,
    weigh: Weigh = p_weight,
) -> StepResult:
    r"""Some steps of :class:`adapters.pgnn.PGNN`.

    Args:
        edges: of the attention graph.
        p: exponent.
        residual: :math:`2\mu/p`.
        degree: value degree, ``"sum"`` or ``"mean"``.
        steps: how many.
        weigh: what weighs the edges of each step. Default: pGNN's.
    """
    rsqrt_d, rsqrt_e = rsqrt(edges.query_degree()), rsqrt(edges.value_degree(degree))
    query, value = edges.query, edges.value
    for step in range(steps):
        weight = weigh(edges, query, value, rsqrt_d, rsqrt_e, p)
        message = weight * rsqrt_d * rsqrt_e
        total = _divisor(edges.sum_at_queries(weight * rsqrt_d.square()) + residual)
        new_query = (edges.to_queries(message, value) + residual * edges.query) / total
        share = residual / total
        if not edges.causal and step < steps - 1:
            total = _divisor(edges.sum_at_values(weight * rsqrt_e.square()) + residual)
            value = (edges.to_values(message, query) + residual * edges.value) / total
        query = new_query
    return StepResult(query, weight, message, share)


def _divisor(total: Tensor) -> Tensor:
    """A total as a divisor: infinite, so that the quotient is 0, where the total is 0 (a node without edges
    and without residual), or so small that its inverse is not a number any more.

    A product with the inverse would have gradients that overflow long before.
    """
    return total.masked_fill(total < torch.finfo(total.dtype).tiny, torch.inf)
