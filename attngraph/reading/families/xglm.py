"""XGLM's attention."""

from __future__ import annotations

from torch import Tensor
from transformers.models.xglm.modeling_xglm import XGLMAttention

from attngraph.reading.arguments import check_known
from attngraph.reading.families.bart_like import decoder_attention
from attngraph.reading.heads import merge_heads


class GraphXGLMAttention(XGLMAttention):
    """Self-attention, ordered in time, and cross-attention."""

    def forward(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        cache=None,
        attention_mask: Tensor | None = None,
        past_key_values=None,
        **others,
    ) -> tuple[Tensor, Tensor | None]:
        check_known(self, others)
        cache = past_key_values if cache is None else cache  # the argument's name changed between releases
        call = decoder_attention(self, hidden_states, key_value_states, cache, attention_mask)
        return self.out_proj(merge_heads(call.context)), call.recorded("weight")


CLASSES = {XGLMAttention: GraphXGLMAttention}
HOOKS: dict = {}
