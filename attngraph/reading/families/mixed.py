"""What ViLT, VisualBERT, FLAVA and GIT share: self-attention over words and an image in one sequence."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from attngraph.reading.calls import attend, merge_heads, split_heads
from attngraph.reading.families.eager import rooted_attention


def project(module: nn.Module, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values ``(b, h, n, d)``."""
    return tuple(
        split_heads(part(hidden_states), module.attention_head_size)
        for part in (module.query, module.key, module.value)
    )


def self_attention(
    module: nn.Module,
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    output_attentions: bool,
    side: Tensor | None,
) -> tuple[Tensor, ...]:
    """The whole forward pass of one that sees everything.

    Args:
        side: bool ``(b, n)``, which nodes are of the image; None if unknown.
    """
    call = attend(
        module,
        *project(module, hidden_states),
        attention_mask,
        rooted_attention,
        dropout=module.dropout.p,
        is_causal=False,
        sides=(side, side),
    )
    context = merge_heads(call.context)
    return (context, call.dropped) if output_attentions else (context,)


def note_words(layers: Iterable[nn.Module], args: tuple, kwargs: dict) -> None:
    """Tell attention modules how many words their model is given; None where it is given none."""
    text = args[0] if args else kwargs.get("input_ids")
    text = kwargs.get("inputs_embeds") if text is None else text
    for layer in layers:
        layer.attngraph.notes["words"] = None if text is None else text.shape[1]


def image_after_words(module: nn.Module, hidden_states: Tensor) -> Tensor | None:
    """Bool ``(b, n)``, which nodes are of the image, where it comes after the noted words; None if unknown."""
    words, (b, n) = module.attngraph.notes.get("words"), hidden_states.shape[:2]
    if words is None:
        return None
    return (torch.arange(n, device=hidden_states.device) >= words).expand(b, -1)


def image_before_words(module: nn.Module, hidden_states: Tensor) -> Tensor | None:
    """The same where the words come last."""
    words, (b, n) = module.attngraph.notes.get("words"), hidden_states.shape[:2]
    if words is None:
        return None
    return (torch.arange(n, device=hidden_states.device) < n - words).expand(b, -1)
