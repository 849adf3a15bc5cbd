r"""Dirichlet energies: how much features change along the edges. All functions return ``(b, h)``.

Nodes without edges count neither in the energy nor in the norm. Value degrees are sums over all queries, in
causal graphs too. A graph without features raises a ``ValueError``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from analysis.bipartite import Bipartite, divide, joined
from attngraph.edges import rsqrt


def dirichlet(graph: Bipartite) -> Tensor:
    r"""Dirichlet energy :math:`\sum_{ij} A_{ij} \lVert q_i/\sqrt{d_i} - v_j/\sqrt{e_j} \rVert^2`, at least 0.

    It is :math:`\operatorname{tr} X^\top (I - S) X` for :math:`X = [Q; V]` and
    :math:`S = D^{-1/2} \tilde A D^{-1/2}`. It does not change when A is scaled.
    """
    q, v = _scaled(graph)
    cross = (q * (graph.weight @ v)).sum((-1, -2), dtype=torch.float64)
    return (norm(graph, 2) - 2 * cross).clamp(min=0)


def dirichlet_normalised(graph: Bipartite) -> Tensor:
    r"""Dirichlet energy over :math:`\lVert X \rVert^2`, in [0, 2]: 0 at :math:`X = (\sqrt d, \sqrt e)`, 2 at
    :math:`X = (\sqrt d, -\sqrt e)`, 1 for features that have nothing to do with the edges."""
    return divide(dirichlet(graph), norm(graph, 2))


def p_dirichlet(graph: Bipartite, p: float = 1.5) -> Tensor:
    r"""p-Dirichlet energy :math:`\sum_{ij} A_{ij}^{p/2} \lVert q_i/\sqrt{d_i} - v_j/\sqrt{e_j} \rVert^p`, at
    least 0: half the sum over both directions of :math:`\tilde A`. With p = 2 it is :func:`dirichlet`. Fu et
    al. 2022.

    Raises:
        ValueError: p below 1.
    """
    if p < 1:
        raise ValueError(f"p must be at least 1, got {p}")
    q, v = _scaled(graph)
    square = (q @ v.mT).mul_(-2).add_(q.square().sum(-1)[..., None]).add_(v.square().sum(-1)[..., None, :])
    return square.clamp_(min=0).mul_(graph.weight).pow_(p / 2).sum(-1).sum(-1, dtype=torch.float64)


def p_dirichlet_normalised(graph: Bipartite, p: float = 1.5) -> Tensor:
    r"""p-Dirichlet energy over :math:`\sum_i \lVert x_i \rVert^p`: free of the scales of features and
    weights. In [0, 2] for p = 2; for smaller p the upper end grows with the number of edges of a node, up to
    :math:`2^{p-1} \max_i \sum_j (A_{ij}/d_i)^{p/2}` over the nodes of both sides, so compare it with its
    nulls only."""
    return divide(p_dirichlet(graph, p), norm(graph, p))


def norm(graph: Bipartite, p: float) -> Tensor:
    r""":math:`\sum_i \lVert x_i \rVert^p` over the nodes of both sides that have edges."""
    query, value = (
        (torch.linalg.vector_norm(x, dim=-1).pow(p) * joined(degree)).sum(-1, dtype=torch.float64)
        for x, degree in zip(graph.features, (graph.query_degree, graph.value_degree))
    )
    return query + value


def _scaled(graph: Bipartite) -> tuple[Tensor, Tensor]:
    r""":math:`q_i/\sqrt{d_i}` and :math:`v_j/\sqrt{e_j}`."""
    query, value = graph.features
    return query * rsqrt(graph.query_degree)[..., None], value * rsqrt(graph.value_degree)[..., None]
