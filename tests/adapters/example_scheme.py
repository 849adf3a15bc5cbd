"""A new scheme in one file: what a newcomer writes. ``test_new_scheme.py`` puts it through the contract."""

import torch
from torch import Tensor

from attngraph.adapters.scalar import Scalar
from attngraph.adapters.scheme import Scheme, check_degree, check_range, register
from attngraph.edges import Edges


@register("fagcn")
class FAGCN(Scheme):
    r"""Frequency-adaptive convolution: signed weights, so that unlike neighbours push apart.

    .. math:: \bar U_i = \epsilon \hat V_i + \sum_j \tanh(\gamma \cos(\hat V_i, \hat V_j)) S_{ij} \hat V_j

    Args:
        epsilon: weight of the node itself, in [0, 1]. Default: 0.3.
        degree: value degree, ``"sum"`` or ``"mean"``. Default: ``"sum"``.

    Source: in the spirit of Bo et al., "Beyond Low-frequency Information in Graph Convolutional Networks",
    AAAI 2021.
    """

    def __init__(self, epsilon: float = 0.3, degree: str = "sum"):
        super().__init__()
        self.epsilon = check_range("epsilon", epsilon, 0, 1)
        self.degree = check_degree(degree)
        self.gamma = Scalar(1.0)

    def propagate(self, edges: Edges) -> Tensor:
        return self.epsilon * edges.query + edges.to_queries(self.edge_weights(edges), edges.value)

    def edge_weights(self, edges: Edges) -> Tensor:
        norm_q, norm_v, dot = edges.products(edges.query, edges.value)
        cosine = dot * (norm_q * norm_v).clamp(min=1e-12).rsqrt()
        return torch.tanh(self.gamma() * cosine) * edges.normalized(self.degree)

    def residual_share(self, edges: Edges) -> float:
        return self.epsilon
