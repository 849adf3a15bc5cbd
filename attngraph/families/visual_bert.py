"""VisualBERT's attention."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.models.visual_bert.modeling_visual_bert import VisualBertModel, VisualBertSelfAttention

from attngraph.calls import attend, merge_heads, split_heads
from attngraph.families.eager import rooted_attention


class GraphVisualBertSelfAttention(VisualBertSelfAttention):
    """Self-attention over the words and then the regions of the image."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None,
                output_attentions: bool = False) -> tuple[Tensor, ...]:
        query, key, value = (split_heads(project(hidden_states), self.attention_head_size)
                             for project in (self.query, self.key, self.value))
        side, words = None, self.attngraph.notes.get("words")
        if words is not None:
            side = (torch.arange(query.shape[2], device=query.device) >= words).expand(query.shape[0], -1)
        call = attend(self, query, key, value, attention_mask, rooted_attention, dropout=self.dropout.p,
                      is_causal=False, sides=(side, side))
        context = merge_heads(call.context)
        return (context, call.dropped) if output_attentions else (context,)


def _note_words(model: VisualBertModel, args: tuple, kwargs: dict) -> None:
    """How many words come before the regions."""
    text = args[0] if args else kwargs.get("input_ids")
    text = kwargs.get("inputs_embeds") if text is None else text
    last = [model.additional_layer] if model.bypass_transformer else []
    for layer in [*model.encoder.layer, *last]:
        layer.attention.self.attngraph.notes["words"] = text.shape[1]


CLASSES = {VisualBertSelfAttention: GraphVisualBertSelfAttention}
HOOKS = {VisualBertModel: _note_words}
