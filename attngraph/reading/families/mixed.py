"""What ViLT, VisualBERT, FLAVA and GIT share: self-attention over words and an image in one sequence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from attngraph.reading.attend import Known, Projected, attend
from attngraph.reading.families.eager import rooted_attention
from attngraph.reading.heads import merge_heads, split_heads
from attngraph.reading.hub import hub_of


def project(module: Any, hidden_states: Tensor) -> Projected:
    """Queries, keys and values ``(b, h, n, d)`` of a module laid out as BERT's."""
    projections = (module.query, module.key, module.value)
    return Projected(*(split_heads(x(hidden_states), module.attention_head_size) for x in projections))


def self_attention(
    module: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    output_attentions: bool,
    side: Tensor | None,
) -> tuple[Tensor, ...]:
    """The whole forward pass of a self-attention module without order in time.

    Args:
        module: laid out as BERT's.
        hidden_states: ``(b, n, h·d)``.
        attention_mask: added to the scores.
        output_attentions: whether to return weights too.
        side: bool ``(b, n)``, which nodes are of the image; None if unknown.
    """
    known = Known(is_causal=False, sides=(side, side))
    projected = project(module, hidden_states)
    call = attend(module, projected, attention_mask, rooted_attention, module.dropout.p, known)
    context = merge_heads(call.context)
    return (context, call.dropped) if output_attentions else (context,)


def note_words(layers: Iterable[nn.Module], args: tuple, kwargs: dict) -> None:
    """Note for attention modules how many words their model is given; None where it is given none."""
    text = args[0] if args else kwargs.get("input_ids")
    text = kwargs.get("inputs_embeds") if text is None else text
    for layer in layers:
        hub_of(layer).notes["words"] = None if text is None else text.shape[1]


def image_after_words(module: nn.Module, hidden_states: Tensor) -> Tensor | None:
    """Bool ``(b, n)``, which nodes are of the image, where it comes after the noted words; None if
    unknown."""
    words, (b, n) = hub_of(module).notes["words"], hidden_states.shape[:2]
    if words is None:
        return None
    return (torch.arange(n, device=hidden_states.device) >= words).expand(b, -1)


def image_before_words(module: nn.Module, hidden_states: Tensor) -> Tensor | None:
    """The same where the words come last."""
    words, (b, n) = hub_of(module).notes["words"], hidden_states.shape[:2]
    if words is None:
        return None
    return (torch.arange(n, device=hidden_states.device) < n - words).expand(b, -1)
