"""The same p-Laplacian step as others compute it, written from their equations; and attention itself.

All take projected queries ``(b, h, n, d)``, keys and values ``(b, h, m, d)``, a factor L of the metric
:math:`G = L L^\\top` ``(h, d, d)``, the exponent p and the residual :math:`r = 2\\mu/p`, and use column-sum
degrees.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d
from torch_geometric.nn import MessagePassing

NORM_FLOOR = 1e-12


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``softmax(QKᵀ/√d) V``, step by step as models do it."""
    return weights(query, key) @ value


def weights(query: Tensor, key: Tensor) -> Tensor:
    return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)


class PLaplacian(MessagePassing):
    """The per-edge way of PyG layers: both ends' features are gathered at every edge, their difference is
    normed, and messages are scattered to the queries."""

    def __init__(self):
        super().__init__(aggr="sum", node_dim=0)

    def forward(self, query, value, measured_query, measured_value, edge_index, weight, degrees, p, residual):
        source, target = edge_index  # values, queries
        d, e = degrees[0][target], degrees[1][source]
        gradient = (weight / d).sqrt()[:, None] * measured_query[target] - (weight / e).sqrt()[
            :, None
        ] * measured_value[source]
        weight = weight * gradient.norm(dim=-1).clamp(min=NORM_FLOOR) ** (p - 2)
        size = (len(value), len(query))
        total = self.propagate(
            edge_index, x=(torch.ones_like(value[:, :1]), None), weight=weight / d, size=size
        )
        message = self.propagate(edge_index, x=(value, None), weight=weight / (d * e).sqrt(), size=size)
        return (message + residual * query) / (total + residual)

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        return weight[:, None] * x_j


def per_edge(query: Tensor, key: Tensor, value: Tensor, factor: Tensor, p, residual) -> Tensor:
    """:class:`PLaplacian` on all pairs of queries and values of every head, as one edge list."""
    weight = weights(query, key)
    b, h, n, m = weight.shape
    group = torch.arange(b * h).view(-1, 1, 1)
    target = (group * n + torch.arange(n)[:, None]).expand(b * h, n, m)
    source = (group * m + torch.arange(m)).expand(b * h, n, m)
    nodes = [x.flatten(0, 2) for x in (query, value, query @ factor, value @ factor)]
    degrees = weight.sum(-1).flatten(), weight.sum(-2).flatten()
    out = PLaplacian()(
        *nodes, torch.stack([source.flatten(), target.flatten()]), weight.flatten(), degrees, p, residual
    )
    return out.view(query.shape)


def square(query: Tensor, key: Tensor, value: Tensor, factor: Tensor, p, residual) -> Tensor:
    """The way of the released p-adapter code: the square matrix of all nodes, and the differences of all
    pairs of them, ``(b, h, n+m, n+m, d)``."""
    weight = weights(query, key)
    b, h, n, m = weight.shape
    whole = weight.new_zeros(b, h, n + m, n + m)
    whole[:, :, :n, n:], whole[:, :, n:, :n] = weight, weight.transpose(-1, -2)
    x = torch.cat([query, value], 2)
    measured = x @ factor / whole.sum(-1, keepdim=True).sqrt()
    gradient = (measured[:, :, :, None] - measured[:, :, None]).norm(dim=-1).clamp(min=NORM_FLOOR)
    there = whole > 0
    power = torch.where(there, torch.where(there, whole, 1.0) ** (p / 2), 0.0) * gradient ** (p - 2)
    degree = whole.sum(-1, keepdim=True)
    alpha = 1 / ((power / degree).sum(-1, keepdim=True) + residual)
    out = alpha * (power / (degree * degree.transpose(-1, -2)).sqrt() @ x + residual * x)
    return out[:, :, :n]


def pooled_square(
    query: Tensor, key: Tensor, value: Tensor, factor: Tensor, p, residual, tokens: int = 24
) -> Tensor:
    """:func:`square` with keys and values average-pooled to a few tokens, so that it fits: another result."""
    key, value = (
        adaptive_avg_pool1d(x.flatten(0, 1).transpose(1, 2), tokens).transpose(1, 2).unflatten(0, x.shape[:2])
        for x in (key, value)
    )
    return square(query, key, value, factor, p, residual)
