"""Tempering: pGNN without distances, as a control."""

from __future__ import annotations

from torch import Tensor

from attngraph.adapters.p_scheme import PScheme, power_weight
from attngraph.adapters.scheme import register
from attngraph.edges import Edges, PerEdge


@register("tempering")
class Tempering(PScheme):
    r"""pGNN with :math:`R \equiv 1`: edges are re-weighted by a power of the attention weight alone.

    .. math:: \bar M_{ij} = M_{ij}^{p/2}

    Degrees, normalisation, residual, p and steps are those of :class:`attngraph.adapters.pgnn.PGNN`, which it
    equals at p = 2. Above 2 it sharpens attention, below it flattens attention. The difference between pGNN
    and tempering is what the distances :math:`R` do, their scale against the residual included.

    Args:
        p, mu, steps, learn_p, learn_mu, degree: as for :class:`attngraph.adapters.pgnn.PGNN`.

    Raises:
        ValueError: an argument out of range.

    Source: ours, as a control.
    """

    def weigh(
        self,
        edges: Edges,
        query: Tensor,
        value: Tensor,
        rsqrt_d: PerEdge,
        rsqrt_e: PerEdge,
        p: Tensor | float,
    ) -> PerEdge:
        return power_weight(edges, p)
