"""Spread of attention. All functions take the sums of a graph and return ``(b, h)``."""

from __future__ import annotations

import torch
from torch import Tensor

from attngraph.analysis.bipartite import divide, positive
from attngraph.analysis.sums import EdgeSums


def entropy(sums: EdgeSums) -> Tensor:
    r"""Attention entropy, in [0, 1]: mean over queries of :math:`-\sum_j p_{ij} \log p_{ij} / \log k_i`, with
    :math:`p_{ij} = A_{ij}/d_i` and :math:`k_i` the number of values that query i sees. Queries that see fewer
    than two values, or have no edges, do not count. 1 for uniform attention."""
    nats = _entropy(sums.query_degree, sums.query_log)
    seen = sums.seen[:, None].double()
    counted = (seen > 1) & (sums.query_degree > 0)
    share = torch.where(counted, nats / seen.clamp(min=2).log(), 0)
    return divide(share.sum(-1), counted.sum(-1).double())


def effective_degree(sums: EdgeSums) -> Tensor:
    r"""Effective degree of the queries: mean over queries of :math:`\exp(-\sum_j p_{ij} \log p_{ij})`, from 1
    to m: the number of equally weighted values with the same entropy."""
    return _effective(sums.query_degree, sums.query_log)


def effective_degree_value(sums: EdgeSums) -> Tensor:
    """Effective degree of the values, from 1 to n, as :func:`effective_degree` over the queries that read a
    value. Values that no query reads do not count."""
    return _effective(sums.value_degree, sums.value_log)


def hubs(sums: EdgeSums) -> Tensor:
    r"""Concentration of the value degrees, in [0, 1): 1 minus their entropy over its maximum, :math:`\log` of
    the number of values that can be seen. 0 where all values are read equally; near 1 where one value (a
    sink) takes all the weight."""
    degree, count = sums.value_degree.double(), (sums.seen_by > 0).sum(-1)[:, None].double()
    share = degree / positive(degree.sum(-1, keepdim=True))
    nats = -torch.special.xlogy(share, share).sum(-1)
    return torch.where(
        (count > 1) & (degree.sum(-1) > 0), (1 - nats / count.clamp(min=2).log()).clamp(min=0), torch.nan
    )


def self_weight(sums: EdgeSums) -> Tensor:
    """Share of the weight on self-loops, in [0, 1]; NaN unless both sides are the same nodes."""
    total = sums.query_degree.double().sum(-1)
    return (
        torch.full_like(total, torch.nan)
        if sums.loops is None
        else divide(sums.loops.double().sum(-1), total)
    )


def _entropy(degree: Tensor, log: Tensor) -> Tensor:
    r"""Entropy of each node's weights in nats: :math:`\log d - \sum A \log A / d`."""
    degree = positive(degree).double()
    return (degree.log() - log.double() / degree).clamp(min=0)


def _effective(degree: Tensor, log: Tensor) -> Tensor:
    counted = degree > 0
    return divide((_entropy(degree, log).exp() * counted).sum(-1), counted.sum(-1).double())
