"""GCNII: initial residual and identity mapping."""

from __future__ import annotations

import math

from torch import Tensor

from attngraph.adapters.appnp import pagerank
from attngraph.adapters.scheme import Scheme, check_degree, check_range, check_steps, register
from attngraph.edges import Edges


@register("gcnii")
class GCNII(Scheme):
    r"""Graph convolution with initial residual and identity mapping on the attention graph.

    .. math:: H = (1 - \alpha)\, S Z + \alpha \hat V, \qquad
              Z' = (1 - \beta) H + \beta\, \sigma(H W_{down}) W_{up}, \qquad \beta = \log(\theta / K + 1)

    The :math:`d \times d` matrix of the original would break the parameter budget of an adapter, so the
    bottleneck plays its part, once, after the last of :math:`K` steps; earlier steps have the identity in its
    place. In a causal graph the value rows stay :math:`\hat V`, and ``steps`` beyond the first change only
    :math:`\beta`.

    Args:
        alpha: share of the initial residual in (0, 1]. Default: 0.1.
        theta: strength of the bottleneck, in (0, e − 1] so that β ≤ 1. Default: 0.5.
        steps: number of steps. Default: 1.
        degree: value degree, ``"sum"`` (the paper's) or ``"mean"``. Default: ``"sum"``.

    Raises:
        ValueError: an argument out of range.

    Source: Chen et al., "Simple and Deep Graph Convolutional Networks", ICML 2020.
    """

    def __init__(self, alpha: float = 0.1, theta: float = 0.5, steps: int = 1, degree: str = "sum"):
        super().__init__()
        self.alpha = check_range("alpha", alpha, 0, 1, open_low=True)
        self.theta = check_range("theta", theta, 0, math.e - 1, open_low=True)
        self.steps = check_steps(steps)
        self.degree = check_degree(degree)
        self.beta = math.log(self.theta / self.steps + 1)

    def propagate(self, edges: Edges) -> Tensor:
        return pagerank(edges, self.edge_weights(edges), self.alpha, self.steps)

    def edge_weights(self, edges: Edges) -> Tensor:
        return edges.normalized(self.degree)

    def residual_share(self, edges: Edges) -> float:
        return self.alpha

    def combine(self, hidden: Tensor, update: Tensor) -> Tensor:
        return (1 - self.beta) * hidden + self.beta * update
