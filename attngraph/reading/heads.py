"""Features of all heads in a row, and head by head."""

from __future__ import annotations

from torch import Tensor


def split_heads(x: Tensor, features: int) -> Tensor:
    """``(b, n, h·d)`` to ``(b, h, n, d)``, with ``features`` = d."""
    return x.view(*x.shape[:-1], -1, features).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """``(b, h, n, d)`` to ``(b, n, h·d)``."""
    return x.transpose(1, 2).flatten(2)


def repeat_heads(x: Tensor, b: int, h: int) -> Tensor:
    """Grouped keys or values ``(b or 1, g, m, d)``, one per head of the queries: ``(b, h, m, d)``, ``g``
    dividing ``h``."""
    return (x if x.shape[1] == h else x.repeat_interleave(h // x.shape[1], 1)).expand(b, -1, -1, -1)
