"""The eager attention that BLIP, ViLT and LXMERT write out: scores divided by the root of the width."""

from __future__ import annotations

from torch import Tensor, nn


def rooted_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
                     dropout: float = 0.0) -> tuple[Tensor, Tensor]:
    r""":math:`\mathrm{softmax}(Q K^\top/\sqrt d + \mathrm{mask})` and its product with V, ``(b, n, h, d)``. In the model's
    own precision and order of operations: dividing by the root and multiplying with its inverse differ in the last bit."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if attention_mask is not None:
        scores = scores + attention_mask
    weight = nn.functional.dropout(scores.softmax(-1), dropout, module.training)
    return (weight @ value).transpose(1, 2), weight


def split_heads(x: Tensor, features: int) -> Tensor:
    """``(b, n, h·d)`` to ``(b, h, n, d)``."""
    return x.view(*x.shape[:-1], -1, features).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """``(b, h, n, d)`` to ``(b, n, h·d)``."""
    return x.transpose(1, 2).flatten(2)
