"""Eager attention as families write it out, in the order of operations that gives the very same numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def rooted_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r""":math:`\mathrm{softmax}(Q K^\top/\sqrt d + \mathrm{bias} + \mathrm{mask})` and its product with V,
    ``(b, n, h, d)``. Dividing by the root and multiplying with its inverse differ in the last bit."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if position_bias is not None:
        scores = scores + position_bias
    return weighted(module, scores, value, attention_mask, dropout)


def scaled_query_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The same where the query is multiplied by ``module.scaling`` first."""
    scores = query * module.scaling @ key.transpose(-1, -2)
    return weighted(module, scores, value, attention_mask, dropout)


def weighted(
    module: nn.Module,
    scores: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Context ``(b, n, h, d)`` and weights of scores that the mask is added to.

    Args:
        dtype: in which the softmax is computed, from which weights go back to that of the values. Default:
            that of the scores.
    """
    if attention_mask is not None:
        scores = scores + attention_mask
    weight = scores.softmax(-1) if dtype is None else scores.softmax(-1, dtype=dtype).to(value.dtype)
    weight = nn.functional.dropout(weight, dropout, module.training)
    return (weight @ value).transpose(1, 2), weight
