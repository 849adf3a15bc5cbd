r"""Spectral energy of the features over the spectrum of :math:`\tilde M`.

The normalised graph :math:`S = D^{-1/2} \tilde A D^{-1/2}` of a bipartite graph has eigenvalues
:math:`\pm\sigma_k` with eigenvectors :math:`(u_k, \pm w_k)/\sqrt 2`, where :math:`\sigma_k, u_k, w_k` come
from the singular value decomposition of the :math:`n \times m` block, and 0. So no :math:`(n+m)^2` matrix is
needed. Frequencies are eigenvalues of :math:`I - S`, :math:`1 \mp \sigma_k` in [0, 2]: low where neighbours
are alike, 2 where they are opposite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from analysis.bipartite import Bipartite, divide, joined


def decompose(graph: Bipartite) -> tuple[Tensor, Tensor]:
    r"""Frequencies and the share of the features' energy at each, both ``(b, h, 2r + 1)`` with r = min(n, m):
    first :math:`1 - \sigma_k`, then :math:`1 + \sigma_k`, then the rest at frequency 1. Shares sum to 1, and
    :math:`\sum \lambda \cdot \text{share}` is the normalised Dirichlet energy."""
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
    """Share of the eigenvalues in the same bins, ``(b, h, bins)``: where the energy of features drawn at
    random would lie. Nodes without edges count as eigenvalues of 1. Bins as in :func:`spectral_energy`."""
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
