"""Donut's Swin attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.donut.modeling_donut_swin import DonutSwinSelfAttention

from attngraph.reading.attend import Known, Projected, attend
from attngraph.reading.families.eager import rooted_attention
from attngraph.reading.heads import merge_heads, split_heads


class GraphDonutSwinSelfAttention(DonutSwinSelfAttention):
    """Self-attention inside windows: every window is an example of its own, those of an image one after the
    other. The mask of shifted windows lowers scores by 100, as Swin's does, and hides nothing."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Any = None, output_attentions: bool | None = False
    ) -> tuple:
        projections = (self.query, self.key, self.value)
        projected = Projected(*(split_heads(x(hidden_states), self.attention_head_size) for x in projections))
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = bias.view(*self.relative_position_index.shape, -1).permute(2, 0, 1).contiguous()
        if attention_mask is not None:
            attention_mask = attention_mask.repeat(len(projected.query) // len(attention_mask), 1, 1)[:, None]
        call = attend(
            self,
            projected,
            attention_mask,
            rooted_attention,
            self.dropout.p,
            Known(is_causal=False),
            position_bias=bias[None],
        )
        context = merge_heads(call.context)
        return (context, call.dropped) if output_attentions else (context,)


CLASSES = {DonutSwinSelfAttention: GraphDonutSwinSelfAttention}
HOOKS: dict = {}
