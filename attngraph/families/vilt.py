"""ViLT's attention."""

from __future__ import annotations

from torch import Tensor
from transformers.models.vilt.modeling_vilt import ViltSelfAttention

from attngraph.calls import attend
from attngraph.families.eager import merge_heads, rooted_attention, split_heads


class GraphViltSelfAttention(ViltSelfAttention):
    """Self-attention over the words and then the patches."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None,
                output_attentions: bool = False) -> tuple[Tensor, ...]:
        query, key, value = (split_heads(project(hidden_states), self.attention_head_size)
                             for project in (self.query, self.key, self.value))
        call = attend(self, query, key, value, attention_mask, rooted_attention, dropout=self.dropout.p)
        context = merge_heads(call.context)
        return (context, call.dropped) if output_attentions else (context,)


CLASSES = {ViltSelfAttention: GraphViltSelfAttention}
