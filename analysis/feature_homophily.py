"""Similarity of neighbours' features, and of the neighbourhoods of queries of one class.

All functions return ``(b, h)`` unless they say otherwise, NaN where undefined.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from analysis.bipartite import Bipartite, divide
from analysis.mixing import Mixing


def cosine(graph: Bipartite) -> Tensor:
    r"""Mean cosine along the edges, in [-1, 1]: :math:`\sum_{ij} A_{ij} \cos(q_i, v_j) / \sum_{ij} A_{ij}`.
    Jin et al. 2022."""
    return cosines(graph)[0]


def generalised_edge(graph: Bipartite) -> Tensor:
    r"""Generalised edge homophily: :func:`cosine` minus what the degrees alone give,
    :math:`\sum_{ij} d_i e_j \cos(q_i, v_j) / (\sum A)^2`. Positive where attention prefers the values that
    point the query's way. Without a mask, 0 for uniform attention."""
    observed, chance = cosines(graph)
    return observed - chance


def cosines(graph: Bipartite) -> tuple[Tensor, Tensor]:
    """:func:`cosine`, and the same under the weights that the degrees alone give."""
    q, v = (normalize(x, dim=-1) for x in graph.features)
    total = graph.query_degree.sum(-1, dtype=torch.float64)
    observed = (q * (graph.weight @ v)).sum((-1, -2), dtype=torch.float64)
    centre_q = (graph.query_degree[..., None, :] @ q)[..., 0, :].double()
    centre_v = (graph.value_degree[..., None, :] @ v)[..., 0, :].double()
    return divide(observed, total), divide((centre_q * centre_v).sum(-1), total.square())


def aggregation(mixing: Mixing, signal: Tensor | None = None) -> Tensor:
    r"""Aggregation homophily, in [0, 1]: with :math:`O = A Z`, the share of queries i whose mean similarity
    :math:`O_i O_{i'}^\top` is higher to the other queries of their class than to those of other classes. Luan
    et al. 2022.

    A tie counts one half and a query is not compared with itself, so uniform attention without a mask has
    0.5. Queries without edges or without another query of their class, and graphs of one class, do not count.

    Args:
        mixing: sums of weights by class; :math:`Z` is the one-hot code of the values' labels.
        signal: ``(b, h, n, c)``, another :math:`O`, such as :math:`A V`.
    """
    out = (mixing.at_queries if signal is None else signal).double()
    edges = mixing.at_queries.sum(-1) > 0
    y = mixing.y.double() * edges[..., None]  # (b, h, n, K)
    sums, count = y.mT @ out, y.sum(-2)  # (b, h, K, c), (b, h, K)
    products = out @ sums.mT  # (b, h, n, K)
    own = (products * y).sum(-1) - out.square().sum(-1)
    other = products.sum(-1) - (products * y).sum(-1)
    size = (y * count[..., None, :]).sum(-1)
    others = count.sum(-1, keepdim=True) - size
    within, between = divide(own, size - 1), divide(other, others)
    tie = (within - between).abs() <= 1e-6 * (within.abs() + between.abs())
    wins = torch.where(tie, 0.5, (within > between).double())
    counted = (size > 1) & (others > 0)
    return divide(torch.where(counted, wins, 0).sum(-1), counted.sum(-1).double())


def modified_aggregation(mixing: Mixing, signal: Tensor | None = None) -> Tensor:
    r""":math:`\max(0, 2h - 1)` of :func:`aggregation`, in [0, 1]."""
    return (2 * aggregation(mixing, signal) - 1).clamp(min=0)


def neighbourhood_similarity(mixing: Mixing) -> Tensor:
    r"""Cross-class neighbourhood similarity, ``(b, h, K, K)``, in [0, 1]: mean cosine of the label histograms
    :math:`(A Z)_i` of two different queries, one of class k and one of class k'. Ma et al. 2022 (whose means
    count a node's similarity with itself; that vanishes in large graphs and rules in small ones)."""
    out = normalize(mixing.at_queries.double(), dim=-1)
    y = mixing.y.double() * (out.abs().sum(-1, keepdim=True) > 0)
    sums, count = y.mT @ out, y.sum(-2)
    products = sums @ sums.mT - torch.diag_embed(count)  # a node with itself: 1
    pairs = count[..., :, None] * count[..., None, :] - torch.diag_embed(count)
    return divide(products, pairs)


def neighbourhood_contrast(mixing: Mixing) -> Tensor:
    """:func:`neighbourhood_similarity` in one number, in [-1, 1]: its mean over pairs of one class minus its
    mean over pairs of different classes. 0 where neighbourhoods do not depend on classes."""
    similarity = neighbourhood_similarity(mixing)
    same = torch.eye(similarity.shape[-1], dtype=torch.bool, device=similarity.device)
    within, between = (similarity.masked_fill(mask, torch.nan).nanmean((-1, -2)) for mask in (~same, same))
    return within - between


def aggregation_statistics(mixing: Mixing) -> dict[str, Tensor]:
    """The statistics of this module that need classes of the queries and any classes of the values."""
    return {"aggregation": aggregation(mixing), "neighbourhood_contrast": neighbourhood_contrast(mixing)}
