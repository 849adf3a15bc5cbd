"""APPNP: personalised PageRank on the attention graph."""

from __future__ import annotations

from torch import Tensor

from attngraph.adapters.scheme import Scheme, check_degree, check_range, check_steps, register
from attngraph.edges import Edges


@register("appnp")
class APPNP(Scheme):
    r"""Approximate personalised propagation on the attention graph.

    .. math:: Z^{(0)} = \hat V, \qquad Z^{(k+1)} = (1 - \alpha)\, S Z^{(k)} + \alpha \hat V, \qquad
              S_{ij} = \frac{\tilde M_{ij}}{\sqrt{\tilde D_{ii} \tilde D_{jj}}}

    In a causal graph the value rows stay :math:`\hat V` (a message from a query to a value would carry later
    tokens back), so there ``steps`` changes nothing beyond the first.

    Args:
        alpha: teleport share in (0, 1]. Default: 0.1.
        steps: number of steps. Default: 1.
        degree: value degree, ``"sum"`` (the paper's) or ``"mean"``. Default: ``"sum"``.

    Raises:
        ValueError: an argument out of range.

    Source: Gasteiger et al., "Predict then Propagate", ICLR 2019.
    """

    def __init__(self, alpha: float = 0.1, steps: int = 1, degree: str = "sum"):
        super().__init__()
        self.alpha = check_range("alpha", alpha, 0, 1, open_low=True)
        self.steps = check_steps(steps)
        self.degree = check_degree(degree)

    def propagate(self, edges: Edges) -> Tensor:
        return pagerank(edges, self.edge_weights(edges), self.alpha, self.steps)

    def edge_weights(self, edges: Edges) -> Tensor:
        return edges.normalized(self.degree)

    def residual_share(self, edges: Edges) -> float:
        return self.alpha


def pagerank(edges: Edges, weight: Tensor, alpha: float, steps: int) -> Tensor:
    r"""The query rows of :math:`Z^{(K)}`, :math:`Z^{(k+1)} = (1 - \alpha) S Z^{(k)} + \alpha \hat V`."""
    query, value = edges.query, edges.value
    steps = 1 if edges.causal else steps
    for step in range(steps):
        new_query = (1 - alpha) * edges.to_queries(weight, value) + alpha * edges.query
        if step < steps - 1:
            value = (1 - alpha) * edges.to_values(weight, query) + alpha * edges.value
        query = new_query
    return query
