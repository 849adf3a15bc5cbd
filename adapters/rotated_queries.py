"""Rotated queries: pGNN whose distances do not know where a query points, as a control."""

from __future__ import annotations

from torch import Tensor

from attngraph.adapters.p_scheme import PScheme, distance_weight
from attngraph.adapters.scheme import check_range, register
from attngraph.edges import Edges, PerEdge
from attngraph.rotation import rotated_metric


@register("rotated")
class RotatedQueries(PScheme):
    r"""pGNN with randomly rotated query features inside the distances.

    .. math::
        R_{ij}^2 = \frac{|\hat V_i|^2}{d_i} + \frac{|\hat V_j|^2}{e_j}
                   - \frac{2\, \hat V_i^{*} \cdot \hat V_j}{\sqrt{d_i e_j}}, \qquad
        \hat V_i^{*} = \hat V_i\, E^\top Q E

    For each head, the rows of :math:`E` are an orthonormal basis of the :math:`d_h` directions that
    :math:`W_o` spans, and :math:`Q` is a fixed random orthogonal matrix. So each query keeps its length, and
    in expectation over :math:`Q` the product :math:`\hat V_i^{*} \cdot \hat V_j` is 0. The rest is as in
    :class:`attngraph.adapters.pgnn.PGNN`; ``docs/concepts.md`` says what comparing the two isolates.

    Permuting the features among the queries would have the same effect, but a query would then see features
    of later tokens, or of other texts of the batch, and cached decoding would permute them differently. A
    rotation acts on each query separately, so causality, padding and caches are those of pGNN.

    With the metric :math:`G = W_o W_o^\top = L L^\top` (Cholesky) and features :math:`q, v` before
    :math:`W_o`, :math:`E = L^{-1} W_o` and the product is :math:`q\, (L Q L^\top)\, v^\top`: nothing is
    inverted, and no array is wider than in pGNN. :math:`Q` is the same in all heads and layers (their
    :math:`L` differ). It follows from ``seed`` and :math:`d_h` alone, and is neither trained nor saved.

    Args:
        p, mu, steps, learn_p, learn_mu, degree: as for :class:`attngraph.adapters.pgnn.PGNN`.
        seed: of :math:`Q`, an integer from 0 to 2³² − 1. Default: 0.

    Raises:
        ValueError: an argument out of range.

    Source: ours, as a control.
    """

    def __init__(
        self,
        p: float = 1.5,
        mu: float = 0.1,
        steps: int = 1,
        learn_p: bool = True,
        learn_mu: bool = False,
        degree: str = "sum",
        seed: int = 0,
    ):
        super().__init__(p, mu, steps, learn_p, learn_mu, degree)
        if check_range("seed", seed, 0, 2**32 - 1) % 1:
            raise ValueError(f"seed must be an integer, got {seed!r}")
        self.seed = int(seed)

    def weigh(
        self,
        edges: Edges,
        query: Tensor,
        value: Tensor,
        rsqrt_d: PerEdge,
        rsqrt_e: PerEdge,
        p: Tensor | float,
    ) -> PerEdge:
        products = edges.products(query, value, rotated_metric(edges, self.seed))
        return distance_weight(edges, *products, rsqrt_d, rsqrt_e, p)
