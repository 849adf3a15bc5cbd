r"""The steps of p-Laplacian message passing, in tensor operations; see :class:`adapters.pgnn.PGNN`."""

from __future__ import annotations

import torch
from torch import Tensor

from attngraph.edges import Edges, PerEdge, floor, rsqrt


def p_steps(
    edges: Edges, p: Tensor | float, residual: Tensor | float, degree: str = "sum", steps: int = 1
) -> tuple[Tensor, PerEdge]:
    r"""Some steps of :class:`adapters.pgnn.PGNN`.

    Args:
        edges: of the attention graph.
        p: exponent.
        residual: :math:`2\mu/p`.
        degree: value degree, ``"sum"`` or ``"mean"``.
        steps: how many.

    Returns:
        The query features :math:`\bar U` ``(b, h, n, d)``, and the weights :math:`\bar M` of the last step.
    """
    root_d, root_e = rsqrt(edges.query_degree()), rsqrt(edges.value_degree(degree))
    query, value = edges.query, edges.value
    for step in range(steps):
        weight = _p_weight(edges, query, value, root_d, root_e, p)
        message = weight * root_d * root_e
        alpha = _inverse(edges.sum_at_queries(weight * root_d.square()) + residual)
        new_query = alpha * (edges.to_queries(message, value) + residual * edges.query)
        if not edges.causal and step < steps - 1:
            alpha = _inverse(edges.sum_at_values(weight * root_e.square()) + residual)
            value = alpha * (edges.to_values(message, query) + residual * edges.value)
        query = new_query
    return query, weight


def _p_weight(
    edges: Edges, query: Tensor, value: Tensor, root_d: PerEdge, root_e: PerEdge, p: Tensor | float
) -> PerEdge:
    r"""Per edge :math:`M^{p/2} R^{p-2}`, 0 where there is no edge."""
    norm_q, norm_v, dot = edges.products(query, value)
    lengths = norm_q * root_d.square() + norm_v * root_e.square()
    square = lengths - 2 * dot * (root_d * root_e)
    square = torch.maximum(square, 8 * torch.finfo(square.dtype).eps * lengths + floor(square.dtype))
    weight = edges.weight
    absent = weight <= floor(weight.dtype)  # a weight that is NaN is there
    log_weight = torch.where(absent, torch.ones_like(weight), weight).log()
    power = 0.5 * p * log_weight + (0.5 * p - 1) * square.log()
    return torch.where(absent, torch.zeros_like(power), power.exp())


def _inverse(x: Tensor) -> Tensor:
    """``1/x``, and 0 where x is 0 (a node without edges and without residual)."""
    zero = x <= 0
    return torch.where(zero, torch.zeros_like(x), torch.where(zero, torch.ones_like(x), x).reciprocal())
