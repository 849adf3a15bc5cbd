"""XGLM's attention."""

from __future__ import annotations

from torch import Tensor
from transformers.models.xglm.modeling_xglm import XGLMAttention

from attngraph.reading.attend import Known, Projected, attend
from attngraph.reading.families.cached import with_cache
from attngraph.reading.families.eager import scaled_query_attention
from attngraph.reading.heads import merge_heads, split_heads


class GraphXGLMAttention(XGLMAttention):
    """Self-attention, ordered in time, and cross-attention."""

    def forward(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        cache=None,
        attention_mask: Tensor | None = None,
        past_key_values=None,
        **_,
    ) -> tuple[Tensor, Tensor | None]:
        cache = past_key_values if cache is None else cache  # the argument's name changed between releases
        cross = key_value_states is not None
        states = key_value_states if cross else hidden_states

        def project() -> tuple[Tensor, Tensor]:
            return split_heads(self.k_proj(states), self.head_dim), split_heads(
                self.v_proj(states), self.head_dim
            )

        key, value = with_cache(self, cache, cross, project)
        query = split_heads(self.q_proj(hidden_states), self.head_dim)
        projected, known = Projected(query, key, value), Known(is_causal=True)
        call = attend(self, projected, attention_mask, scaled_query_attention, self.dropout or 0.0, known)
        return self.out_proj(merge_heads(call.context)), call.recorded("weight")


CLASSES = {XGLMAttention: GraphXGLMAttention}
HOOKS: dict = {}
