"""FLAVA's attention, in its text, image and multimodal models."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.models.flava.modeling_flava import FlavaModel, FlavaSelfAttention

from attngraph.calls import attend, merge_heads, split_heads
from attngraph.families.eager import rooted_attention


class GraphFlavaSelfAttention(FlavaSelfAttention):
    """Self-attention; in the multimodal model over a [CLS] node and the image, and then the words."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None,
                output_attentions: bool = False) -> tuple[Tensor, ...]:
        query, key, value = (split_heads(project(hidden_states), self.attention_head_size)
                             for project in (self.query, self.key, self.value))
        b, _, n, _ = query.shape
        side, words = None, self.attngraph.notes.get("words")
        if words is not None:
            side = (torch.arange(n, device=query.device) < n - words).expand(b, -1)
        call = attend(self, query, key, value, attention_mask, rooted_attention, dropout=self.dropout.p,
                      is_causal=False, sides=(side, side))
        context = merge_heads(call.context)
        return (context, call.dropped) if output_attentions else (context,)


def _note_words(model: FlavaModel, args: tuple, kwargs: dict) -> None:
    """How many words come after the image in the multimodal model."""
    text = args[0] if args else kwargs.get("input_ids")
    for layer in model.multimodal_model.encoder.layer:
        layer.attention.attention.attngraph.notes["words"] = None if text is None else text.shape[1]


CLASSES = {FlavaSelfAttention: GraphFlavaSelfAttention}
HOOKS = {FlavaModel: _note_words}
