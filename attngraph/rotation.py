"""Query features rotated at random inside the products of queries and values."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attngraph.edges import Edges


def rotated_metric(edges: Edges, seed: int) -> Tensor:
    r""":math:`L Q L^\top` of the metric :math:`G = L L^\top` and a random orthogonal matrix :math:`Q`, to
    take the place of :math:`G` in :math:`q_i G v_j^\top` (:meth:`attngraph.edges.Edges.products`).

    Every query is turned by the same rotation within the directions that the head's :math:`W_o` spans.

    Args:
        edges: of the attention graph.
        seed: of :math:`Q`, which follows from it and the width of a head alone.

    Returns:
        ``(h, d, d)``; ``(d, d)`` without a metric.
    """
    turn: Any = torch.from_numpy(rotation(edges.query.shape[-1], seed)).to(edges.query)
    if edges.metric is None:
        return turn
    factor = root_of(edges.metric)
    return factor @ turn @ factor.transpose(-1, -2)


@lru_cache
def rotation(features: int, seed: int) -> np.ndarray:
    """A random orthogonal matrix ``(features, features)`` in float64, the same wherever it is made: NumPy's
    ``RandomState`` gives the same numbers in all versions, and the signs of a QR decomposition are set."""
    normal = np.random.RandomState(seed).standard_normal((features, features))
    q, r = np.linalg.qr(normal)
    return q * np.where(np.diag(r) < 0, -1.0, 1.0)


def root_of(metric: Tensor) -> Tensor:
    r""":math:`L` with :math:`L L^\top = G` up to rounding, lower triangular, for ``(h, d, d)``.

    :math:`G` may be singular, so a small multiple of its rounding error is added to the diagonal.
    """
    d = metric.shape[-1]
    trace = metric.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    info = torch.finfo(metric.dtype)
    lift = (4 * info.eps * trace + info.tiny**0.5) * torch.eye(d, dtype=metric.dtype, device=metric.device)
    even = 0.5 * (metric + metric.transpose(-1, -2))
    return torch.linalg.cholesky_ex(even + lift)[0]
