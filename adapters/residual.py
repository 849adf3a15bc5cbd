"""Residual: the attention output with a residual to the query and nothing else, as a control."""

from __future__ import annotations

from torch import Tensor

from attngraph.adapters.scheme import Scheme, check_range, register
from attngraph.edges import Edges


@register("residual")
class Residual(Scheme):
    r"""The query residual of APPNP and pGNN alone, without degree normalisation or re-weighting.

    .. math:: \bar U_i = (1 - \alpha) \sum_j M_{ij} \hat V_j + \alpha \hat V_i

    Args:
        alpha: share of the residual in (0, 1]. Default: 0.1.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(self, alpha: float = 0.1):
        super().__init__()
        self.alpha = check_range("alpha", alpha, 0, 1, open_low=True)

    def propagate(self, edges: Edges) -> Tensor:
        return (1 - self.alpha) * edges.to_queries(edges.weight, edges.value) + self.alpha * edges.query

    def edge_weights(self, edges: Edges) -> Tensor:
        return edges.weight

    def residual_share(self, edges: Edges) -> float:
        return self.alpha
