r"""Distance of the clouds of query and value features.

All functions take ``(..., nodes, features)`` and return ``(...)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attngraph.analysis.bipartite import divide, positive
from attngraph.analysis.sums import EdgeSums, in_c, in_parts


def cka(x: Tensor, y: Tensor, valid: Tensor) -> Tensor:
    r"""Linear centred kernel alignment of paired features,

    .. math:: \operatorname{HSIC}(X, Y) / \sqrt{\operatorname{HSIC}(X, X) \operatorname{HSIC}(Y, Y)},

    at most 1: 1 where they agree up to rotation and scale, around 0 where they are unrelated (the unbiased
    estimate can fall below). Undefined (NaN) with fewer than four pairs, or where all y are the same.
    Kornblith et al. 2019, with the unbiased HSIC of Song et al. 2012.

    Args:
        x: ``(..., n, d)``.
        y: ``(..., n, d')``, paired with ``x``.
        valid: bool ``(..., n)``, which pairs count.
    """
    found = torch.zeros(*x.shape[:-2], 9, dtype=torch.float64, device=x.device)
    items = found[..., 0].numel()
    options = items, max(1, items), x.shape[-2], x.shape[-1], y.shape[-1], 1
    y, mask = y.expand(*x.shape[:-1], -1), valid.expand(x.shape[:-1])
    if not in_c("attngraph_alignment", options, (x, y, None, mask, None), [found]):
        found = _moments(x, y, mask)
    return _alignment(found, valid)


def neighbour_cka(query: Tensor, received: Tensor, sums: EdgeSums, backs: Sequence[Tensor] = ()) -> Tensor:
    r""":func:`cka` of each query :math:`q_i` and what it receives, :math:`\sum_j A_{ij} v_j / d_i`, in a
    graph and in permuted graphs, ``(b, h, graphs)``. Attention pairs the two clouds, so their sizes may
    differ. Undefined for uniform attention without a mask, where all queries receive the same.

    Args:
        query: ``(b, h, n, d)``.
        received: ``(b, h, n, graphs, d)``, the sums :math:`\sum_j A_{ij} v_j` of the graphs.
        sums: of the graph, with the degrees.
        backs: where queries are permuted too, which query's edges each query's features meet in the graphs
            after the first, each ``(b, n)``.
    """
    valid = (sums.seen > 0)[:, None] & (sums.query_degree > 0)
    (b, h, n, graphs, d_y), d = received.shape, query.shape[-1]
    query, degree = query.expand(b, h, n, d), positive(sums.query_degree)
    found = torch.zeros(b, h, graphs, 9, dtype=torch.float64, device=query.device)
    options = b * h, h, n, d, d_y, graphs
    back = torch.stack([*backs], 1).int() if backs else None
    if in_c("attngraph_alignment", options, (query, received, degree, valid, back), [found]):
        return _alignment(found, valid[..., None, :])

    def of_graph(y: Tensor, places: Tensor | None) -> Tensor:
        y, mask = y / degree[..., None], valid
        if places is not None:
            places = places[:, None].expand(valid.shape)
            y, mask = y.gather(2, places[..., None].expand_as(y)), valid.gather(2, places)
        return in_parts(lambda *part: (cka(*part),), query, y, mask)[0]

    moved: list[Tensor | None] = [None] * graphs if not backs else [None, *backs]
    return torch.stack([of_graph(y, places) for y, places in zip(received.unbind(3), moved)], -1)


def _alignment(moments: Tensor, valid: Tensor) -> Tensor:
    """From the numbers of :func:`_moments`."""
    xx, yy, xy, kk, gg, kg, k, g, total = moments.unbind(-1)
    n = valid.sum(-1).double()
    own = _hsic(xx, kk, k * k, n).clamp(min=0) * _hsic(yy, gg, g * g, n).clamp(min=0)
    defined = (n > 3) & (g > 1e-9 * total)
    return torch.where(defined, divide(_hsic(xy, kg, k * g, n), own.sqrt()), torch.nan)


def mmd(x: Tensor, is_query: Tensor, valid: Tensor) -> Tensor:
    r"""Squared maximum mean discrepancy between two clouds,

    .. math:: E[k(q, q')] + E[k(v, v')] - 2 E[k(q, v)],

    unbiased (means over pairs of different points), with the kernel
    :math:`k(x, y) = \exp(-\lVert x - y \rVert^2 / s)`, s the mean squared distance of all pairs: about 0 for
    equal clouds (it can fall below), at most :math:`2 - 2\exp(-N(N-1)/2nm)` for n and m points, N = n + m,
    far apart: 1.73 for clouds of one size, up to 2 for clouds of very different sizes. Gretton et al. 2012.

    Args:
        x: ``(..., N, d)``, the points of both clouds.
        is_query: bool ``(..., N, k)``, which cloud each belongs to, in k divisions of the same points.
        valid: bool ``(..., N)``, which points count.

    Returns:
        ``(..., k)``.
    """
    x, count = x.double(), valid.sum(-1).double()
    norms = torch.linalg.vecdot(x, x)
    square = (x @ x.mT).mul_(-2).add_(norms[..., None]).add_(norms[..., None, :]).clamp_(min=0)
    every = valid[..., None].double()
    scale = divide((every.mT @ square @ every)[..., 0, 0], count * (count - 1))
    kernel = square.mul_(divide(-torch.ones_like(scale), scale)[..., None, None]).exp_()
    kernel.diagonal(dim1=-2, dim2=-1).zero_()  # of different points
    sides = _sides(is_query, valid)
    to_sides = (kernel @ torch.cat(sides, -1)).chunk(2, -1)
    n, m = (side.sum(-2) for side in sides)
    within_q, within_v, across = (
        (side * sums).sum(-2) for side, sums in zip((*sides, sides[0]), (*to_sides, to_sides[1]))
    )
    return divide(within_q, n * (n - 1)) + divide(within_v, m * (m - 1)) - 2 * divide(across, n * m)


def probe_auc(x: Tensor, is_query: Tensor, valid: Tensor, fold: Tensor, ridge: float = 0.1) -> Tensor:
    r"""Area under the ROC curve of a linear probe that separates queries from values, in [0, 1]: 0.5 if it
    cannot, 1 if it always can.

    The probe is linear discriminant analysis, :math:`(\Sigma + \lambda I)^{-1}(\mu_q - \mu_v)` with
    :math:`\lambda` = ``ridge`` times the mean variance, fitted on one half of the points and scored on the
    other, both ways. Each half needs two points of both clouds.

    Args:
        x, is_query, valid: as in :func:`mmd`.
        fold: bool ``(N,)``, which half each point belongs to.

    Returns:
        ``(..., k)``.
    """
    x, sides = x.double(), _sides(is_query, valid)
    first, second = ((x[..., half, :], *(side[..., half, :] for side in sides)) for half in (fold, ~fold))
    return (_probe(first, second, ridge) + _probe(second, first, ridge)) / 2


def _sides(is_query: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """1 for queries and for values, 0 elsewhere, ``(..., N, k)``."""
    query = valid[..., None] & is_query
    return query.double(), (valid[..., None] ^ query).double()


def _probe(train: tuple[Tensor, ...], test: tuple[Tensor, ...], ridge: float) -> Tensor:
    r"""Of points and their sides. All divisions share the covariance of all points,
    :math:`T = \Sigma + c\, \delta \delta^\top` with :math:`\delta = \mu_q - \mu_v`: the probe is a positive
    multiple of :math:`(T + \lambda I)^{-1} \delta`."""
    x, query, value = train
    n, m = query.sum(-2), value.sum(-2)  # (..., k)
    every, count = (query + value)[..., :1], (n + m)[..., :1, None]
    x = (x - divide(every.mT @ x, count).nan_to_num(0)) * every
    total = divide(x.mT @ x, count).nan_to_num(0)  # (..., d, d)
    mean_q, mean_v = (
        divide(side.mT @ x, size[..., None]).nan_to_num(0) for side, size in ((query, n), (value, m))
    )
    apart = mean_q - mean_v  # (..., k, d)
    share = divide(n * m, (n + m).square()).nan_to_num(0)
    within = total.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - share * apart.square().sum(-1)
    shrinkage = ridge * within.clamp(min=0) / x.shape[-1] + 1e-12
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    matrix = total[..., None, :, :] + shrinkage[..., None, None] * eye  # (..., k, d, d)
    probe = torch.linalg.solve(matrix, apart[..., None])[..., 0]
    x, query, value = test
    score = (x @ probe.mT).mT  # (..., k, N)
    above = (score[..., :, None] - score[..., None, :]).sign_()  # of each pair, 1 where the first is higher
    above = (query.mT[..., None, :] @ above @ value.mT[..., None])[..., 0, 0]
    area = (1 + divide(above, query.sum(-2) * value.sum(-2))) / 2
    return torch.where((n > 1) & (m > 1), area, torch.nan)


def _centred(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The valid rows minus their mean, others 0; their squared norms; and the sum of the squared norms before
    centring."""
    mask = valid[..., None].to(x.dtype)
    x = x * mask
    total = torch.linalg.vecdot(x, x).sum(-1, dtype=torch.float64)
    mean = x.sum(-2, keepdim=True, dtype=torch.float64) / positive(mask.sum(-2, keepdim=True))
    x.sub_(mean.to(x.dtype)).mul_(mask)
    return x, torch.linalg.vecdot(x, x).double(), total


def _moments(x: Tensor, y: Tensor, valid: Tensor) -> Tensor:
    r"""Of the centred x and y, with the squared lengths k and g of their rows: :math:`\lVert X^\top X
    \rVert^2`, :math:`\lVert Y^\top Y \rVert^2` and :math:`\lVert X^\top Y \rVert^2`; the sums of k k, g g,
    k g, k and g; and the sum of y's squared norms before centring. In C: ``edges.c``."""
    (x, k, _), (y, g, total) = _centred(x, valid), _centred(y, valid)
    squares = [(a.mT @ b).double().square().sum((-1, -2)) for a, b in ((x, x), (y, y), (x, y))]
    sums = [a.sum(-1) for a in (k * k, g * g, k * g, k, g)]
    return torch.stack([*squares, *sums, total], -1)


def _hsic(square: Tensor, mixed: Tensor, both: Tensor, n: Tensor) -> Tensor:
    r"""Song et al. 2012, equation 5, up to the factor n(n - 3), for linear kernels of centred rows with the
    squared lengths k and g: from :math:`\lVert X^\top Y \rVert^2`, :math:`\sum k_i g_i` and
    :math:`\sum k_i \sum g_i`.

    With :math:`K = X X^\top` and its diagonal k taken out, row i of it sums to :math:`-k_i`, since the rows
    of X sum to 0; and :math:`\sum_{ij} K_{ij} G_{ij} = \lVert X^\top Y \rVert^2`. So no matrix of all pairs
    is needed.
    """
    return square - mixed + divide(both, (n - 1) * (n - 2)) - 2 * divide(mixed, n - 2)
