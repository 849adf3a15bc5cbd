r"""Squared distances :math:`R^2` between queries and values, clamped from below, and the way back through
their logarithm."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from attngraph.adapters.kernels.step import PLaplacianStep
from attngraph.edges import smallest_weight


class Distances(NamedTuple):
    """Squared distances of some heads."""

    square: Tensor  # g n m: R²
    rsqrt_e: Tensor  # g 1 m, or g n m in a causal graph: 1/√e
    lengths: Tensor  # like rsqrt_e: |v|²/e
    norm_q: Tensor  # g n 1: |q|²
    clamped: Tensor | None  # g n m, bool: which were lifted; None if none were


class DistanceGradients(NamedTuple):
    """Gradients through log R², all but ``degree`` divided by p/2 - 1."""

    near: Tensor  # g n m: of R² times 1/√e, where the distance counted
    norm_q: Tensor  # g n 1
    norm_v: Tensor  # g 1 m
    degree: Tensor  # like Distances.rsqrt_e: of log 1/√e, also through the messages


def least_share(x: Tensor) -> float:
    """Squared distances are at least this times the squared lengths."""
    return 8 * torch.finfo(x.dtype).eps


def clamp_(square: Tensor, norm_q: Tensor, lengths: Tensor) -> Tensor | None:
    """Lift squared distances, in place, to a small share of the squared lengths.

    Returns:
        Which were lifted, ``(g, n, m)``, or None if none were.
    """
    share, least = least_share(square), smallest_weight(square.dtype)
    if (square.amin(-2) > share * (lengths.amax(-2) + norm_q.amax(-2)) + least).all():
        return None  # the usual case, seen without another array of all edges
    low = (lengths + norm_q).mul_(share).add_(least)
    clamped = square < low
    if not clamped.any():
        return None
    torch.maximum(square, low, out=square)
    return clamped


def distance_gradients(
    step: PLaplacianStep, grad_log_weight: Tensor, power: Tensor, pulled: Tensor, distances: Distances
) -> DistanceGradients:
    """Back from the edges' log weights to distances and degrees.

    Args:
        step: whose edges they are.
        grad_log_weight: gradient of the log weights, ``(g, n, m)``.
        power: the weights, ``(g, n, m)``.
        pulled: ``(g, n, 1)``; ``grad_log_weight + power * pulled`` is the gradient of the log messages.
        distances: what the weights were computed from.
    """
    half, free, lifted = 0.5 * step.p - 1, grad_log_weight, None
    square, rsqrt_e, lengths, norm_q, clamped = distances
    near = torch.div(grad_log_weight, square)
    if clamped is not None:  # there R² is a share of the lengths
        lifted = near.masked_fill(~clamped, 0).mul_(least_share(square))
        free, near = grad_log_weight.masked_fill(clamped, 0), near.masked_fill_(clamped, 0)
    grad_norm_q = near.sum(-1, keepdim=True)
    if step.causal:
        degree = torch.addcmul(grad_log_weight, power, pulled).add_(free, alpha=half)
        degree.addcmul_(near, lengths - norm_q, value=half)
        near.mul_(rsqrt_e)
        grad_norm_v = (near * rsqrt_e).sum(-2, keepdim=True)
    else:
        total = near.sum(-2, keepdim=True)
        degree = free.sum(-2, keepdim=True).addcmul_(total, lengths)
        degree.sub_(norm_q.transpose(-1, -2) @ near).mul_(half)
        degree.add_(grad_log_weight.sum(-2, keepdim=True)).add_(pulled.transpose(-1, -2) @ power)
        near.mul_(rsqrt_e)
        grad_norm_v = total * rsqrt_e.square()
    if lifted is not None:
        grad_norm_q += lifted.sum(-1, keepdim=True)
        grad_norm_v += (lifted * rsqrt_e.square()).sum(-2, keepdim=True)
        lifted *= 2 * half * lengths
        degree += lifted if step.causal else lifted.sum(-2, keepdim=True)
    return DistanceGradients(near, grad_norm_q, grad_norm_v, degree)
