r"""How much features change along the edges: cosines, Dirichlet energies, and their spectrum.

All functions return ``(b, h)`` unless they say otherwise. Nodes without edges count neither in energies nor
in norms. Value degrees are sums over all queries, in causal graphs too. A graph without features raises a
``ValueError``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from attngraph.analysis.along import SHORTEST, Along, along_edges
from attngraph.analysis.bipartite import Bipartite, divide, joined


class Energies(NamedTuple):
    r"""How much features change along the edges. All ``(b, h)``.

    Args:
        cosine: mean cosine along the edges, :math:`\sum_{ij} A_{ij} \cos(q_i, v_j) / \sum_{ij} A_{ij}`, in
            [-1, 1].
        generalised_edge: generalised edge homophily: the same minus what the degrees alone give,
            :math:`\sum_{ij} d_i e_j \cos(q_i, v_j) / (\sum A)^2`. It is positive where attention prefers the
            values in the query's direction; without a mask it is 0 for uniform attention. Jin et al. 2022.
        dirichlet: Dirichlet energy :math:`\sum_{ij} A_{ij} \lVert q_i/\sqrt{d_i} - v_j/\sqrt{e_j}
            \rVert^2`, at least 0. It is :math:`\operatorname{tr} X^\top (I - S) X` for :math:`X = [Q; V]` and
            :math:`S = D^{-1/2} \tilde A D^{-1/2}`, and does not change when A is scaled.
        dirichlet_normalised: the same over :math:`\sum_i \lVert x_i \rVert^2`, the sum over the nodes of both
            sides that have edges: invariant to the scales of features and weights. It is in [0, 2]: 0 at
            :math:`X = (\sqrt d, \sqrt e)`, 2 at :math:`X = (\sqrt d, -\sqrt e)`, 1 for features that are
            unrelated to the edges.
        p_dirichlet: p-Dirichlet energy :math:`\sum_{ij} A_{ij}^{p/2} \lVert q_i/\sqrt{d_i} - v_j/\sqrt{e_j}
            \rVert^p`, at least 0: half the sum over both directions of :math:`\tilde A`. With p = 2 it is the
            Dirichlet energy. Fu et al. 2022.
        p_dirichlet_normalised: the same over :math:`\sum_i \lVert x_i \rVert^p`. For p below 2 the upper end
            grows with the number of edges of a node, up to :math:`2^{p-1} \max_i \sum_j (A_{ij}/d_i)^{p/2}`
            over the nodes of both sides, so compare it with its nulls only.
    """

    cosine: Tensor
    generalised_edge: Tensor
    dirichlet: Tensor
    dirichlet_normalised: Tensor
    p_dirichlet: Tensor
    p_dirichlet_normalised: Tensor


def energies(graph: Bipartite, p: float = 1.5) -> Energies:
    """The energies of a graph, NaN where there is nothing to divide by.

    Args:
        graph: the graph.
        p: exponent of the p-Dirichlet energy, at least 1.

    Raises:
        ValueError: p below 1.
    """
    return energies_of_graphs(graph, p, along_edges(graph, p, graph))[0]


def energies_of_graphs(graph: Bipartite, p: float, along: Along) -> list[Energies]:
    """The energies of a graph and of its null models.

    Args:
        graph, p: as for :func:`energies`.
        along: their sums along edges, :func:`attngraph.analysis.along.along_edges`.
    """
    directions, norms = [], []
    for x, degree in zip(graph.features, along.degrees):
        length = torch.linalg.vector_norm(x, dim=-1)[..., None, :]
        # the mean direction, each node by its degree
        directions.append(((degree / length.clamp(min=SHORTEST)) @ x).double())
        norms.append([(length.pow(power) * joined(degree)).sum(-1, dtype=torch.float64) for power in (2, p)])
    total = along.degrees[0].sum(-1, dtype=torch.float64)
    of_cosines, dirichlet, p_dirichlet = along.energies.unbind(-1)
    cosine = divide(of_cosines, total)
    chance = divide(torch.linalg.vecdot(*directions), total.square())
    norm, p_norm = (query + value for query, value in zip(*norms))
    normalised = divide(dirichlet, norm), divide(p_dirichlet, p_norm)
    found = cosine, cosine - chance, dirichlet, normalised[0], p_dirichlet, normalised[1]
    return [Energies(*one) for one in zip(*(x.unbind(-1) for x in found))]


def decompose(graph: Bipartite) -> tuple[Tensor, Tensor]:
    r"""Frequencies and the share of the features' energy at each, both ``(b, h, 2r + 1)`` with r = min(n, m):
    first :math:`1 - \sigma_k`, then :math:`1 + \sigma_k`, then the rest, at frequency 1. Shares sum to 1, and
    :math:`\sum \lambda \cdot \text{share}` is the normalised Dirichlet energy.

    The normalised graph :math:`S = D^{-1/2} \tilde A D^{-1/2}` of a bipartite graph has eigenvalues
    :math:`\pm\sigma_k` with eigenvectors :math:`(u_k, \pm w_k)/\sqrt 2`, where :math:`\sigma_k, u_k, w_k`
    come from the singular value decomposition of the :math:`n \times m` block, and 0. So no
    :math:`(n+m)^2` matrix is needed. Frequencies are eigenvalues of :math:`I - S`, :math:`1 \mp \sigma_k` in
    [0, 2]: low where neighbours are similar, 2 where they are opposite."""
    u, sigma, wt = torch.linalg.svd(graph.symmetric().double(), full_matrices=False)
    query, value = graph.features
    query = query.double() * joined(graph.query_degree)[..., None]
    value = value.double() * joined(graph.value_degree)[..., None]
    q, v = u.mT @ query, wt @ value  # (b, h, r, d)
    low, high = (q + v).square().sum(-1) / 2, (q - v).square().sum(-1) / 2
    total = query.square().sum((-1, -2)) + value.square().sum((-1, -2))
    rest = (total - low.sum(-1) - high.sum(-1)).clamp(min=0)
    sigma = sigma.clamp(max=1)
    frequency = torch.cat([1 - sigma, 1 + sigma, torch.ones_like(sigma[..., :1])], -1)
    return frequency, divide(torch.cat([low, high, rest[..., None]], -1), total[..., None])


def spectral_energy(graph: Bipartite, bins: int = 21) -> Tensor:
    """Share of the features' energy in equal bins of the frequencies from 0 to 2, ``(b, h, bins)``.

    Raises:
        ValueError: an even number of bins, which would cut at frequency 1, where all lies that the edges do
            not reach.
    """
    frequency, share = decompose(graph)
    return _binned(frequency, share, bins)


def spectral_density(graph: Bipartite, bins: int = 21) -> Tensor:
    """Share of the eigenvalues in the same bins, ``(b, h, bins)``: the expected energy of random features.
    Nodes without edges count as eigenvalues of 1. Bins as in :func:`spectral_energy`."""
    sigma = torch.linalg.svdvals(graph.symmetric().double()).clamp(max=1)
    nodes = (graph.rows.sum(1) + graph.columns.sum(1))[:, None, None].double()
    nonzero = (sigma > 1e-9).double()
    rest = (nodes - 2 * nonzero.sum(-1, keepdim=True)).clamp(min=0)
    frequency = torch.cat([1 - sigma, 1 + sigma, torch.ones_like(rest)], -1)
    return _binned(frequency, divide(torch.cat([nonzero, nonzero, rest], -1), nodes), bins)


def _binned(frequency: Tensor, share: Tensor, bins: int) -> Tensor:
    if bins < 1 or bins % 2 == 0:
        raise ValueError(f"bins must be an odd number, got {bins}")
    place = (frequency * (bins / 2)).long().clamp(0, bins - 1)
    return share.new_zeros(*share.shape[:-1], bins).scatter_add(-1, place, share)
