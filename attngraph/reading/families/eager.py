"""The eager attention that BLIP, ViLT and LXMERT write out: scores divided by the root of the width."""

from __future__ import annotations

from torch import Tensor, nn


def rooted_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    r""":math:`\mathrm{softmax}(Q K^\top/\sqrt d + \mathrm{mask})` and its product with V, ``(b, n, h, d)``.
    In the model's own order of operations: dividing by the root and multiplying with its inverse differ in
    the last bit."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if attention_mask is not None:
        scores = scores + attention_mask
    weight = nn.functional.dropout(scores.softmax(-1), dropout, module.training)
    return (weight @ value).transpose(1, 2), weight
