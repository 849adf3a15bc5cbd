"""Spread of attention. All functions return ``(b, h)``."""

from __future__ import annotations

import torch
from torch import Tensor

from analysis.bipartite import Bipartite, divide, positive


def entropy(graph: Bipartite) -> Tensor:
    r"""Attention entropy, in [0, 1]: mean over queries of :math:`-\sum_j p_{ij} \log p_{ij} / \log k_i`, with
    :math:`p_{ij} = A_{ij}/d_i` and :math:`k_i` the number of values that query i sees. Queries that see fewer
    than two values, or have no edges, do not count. 1 for uniform attention."""
    nats = _entropy(graph, graph.query_degree, -1)
    seen = graph.visible.sum(-1)[:, None].double()
    counted = (seen > 1) & (graph.query_degree > 0)
    share = torch.where(counted, nats / seen.clamp(min=2).log(), 0)
    return divide(share.sum(-1), counted.sum(-1).double())


def effective_degree(graph: Bipartite) -> Tensor:
    r"""Effective degree of the queries: mean over queries of :math:`\exp(-\sum_j p_{ij} \log p_{ij})`, from 1
    to m: the number of equally weighted values with the same entropy."""
    return _effective(graph, graph.query_degree, -1)


def effective_degree_value(graph: Bipartite) -> Tensor:
    """Effective degree of the values, from 1 to n, as :func:`effective_degree` over the queries that read a
    value. Values that no query reads do not count."""
    return _effective(graph, graph.value_degree, -2)


def hubs(graph: Bipartite) -> Tensor:
    r"""Concentration of the value degrees, in [0, 1): 1 minus their entropy over its maximum, :math:`\log` of
    the number of values that can be seen. 0 where all values are read equally; near 1 where one value (a
    sink) takes all the weight."""
    degree, count = graph.value_degree.double(), graph.columns.sum(-1)[:, None].double()
    share = degree / positive(degree.sum(-1, keepdim=True))
    nats = -torch.special.xlogy(share, share).sum(-1)
    return torch.where(
        (count > 1) & (degree.sum(-1) > 0), (1 - nats / count.clamp(min=2).log()).clamp(min=0), torch.nan
    )


def self_weight(graph: Bipartite) -> Tensor:
    """Share of the weight on self-loops, in [0, 1]; NaN unless both sides are the same nodes."""
    if not graph.paired:
        return torch.full(graph.weight.shape[:2], torch.nan, dtype=torch.float64, device=graph.weight.device)
    loops = graph.weight.diagonal(dim1=-2, dim2=-1).double().sum(-1)
    return divide(loops, graph.query_degree.double().sum(-1))


def _entropy(graph: Bipartite, degree: Tensor, axis: int) -> Tensor:
    r"""Entropy of each row (``axis`` -1) or column (-2) in nats: :math:`\log d - \sum A \log A / d`."""
    degree = positive(degree).double()
    sums = graph.weight_log_weight.sum(axis).double()
    return (degree.log() - sums / degree).clamp(min=0)


def _effective(graph: Bipartite, degree: Tensor, axis: int) -> Tensor:
    counted = degree > 0
    return divide((_entropy(graph, degree, axis).exp() * counted).sum(-1), counted.sum(-1).double())
