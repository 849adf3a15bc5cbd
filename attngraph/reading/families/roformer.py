"""RoFormer's attention."""

from __future__ import annotations

from torch import Tensor
from transformers.models.roformer.modeling_roformer import RoFormerSelfAttention

from attngraph.reading.arguments import check_known
from attngraph.reading.attend import Known, Projected, attend
from attngraph.reading.families.cached import with_cache
from attngraph.reading.families.eager import rooted_attention
from attngraph.reading.heads import merge_heads, split_heads


class GraphRoFormerSelfAttention(RoFormerSelfAttention):
    """Self-attention with rotary positions, and cross-attention without. Values are turned too where the
    configuration says so (``rotary_value``)."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        sinusoidal_pos: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        cache=None,
        output_attentions: bool = False,
        past_key_values=None,
        **others,
    ) -> tuple[Tensor, Tensor | None]:
        check_known(self, others)
        cache = past_key_values if cache is None else cache  # the argument's name changed between releases
        cross, features = encoder_hidden_states is not None, self.attention_head_size
        states = encoder_hidden_states if cross else hidden_states
        query = split_heads(self.query(hidden_states), features)
        turns = None if cross else sinusoidal_pos

        def project() -> tuple[Tensor, Tensor]:
            key, value = split_heads(self.key(states), features), split_heads(self.value(states), features)
            if turns is None:
                return key, value
            turned = self.apply_rotary_position_embeddings(turns, key, value if self.rotary_value else key)
            return turned[0], turned[1] if self.rotary_value else value

        key, value = with_cache(self, cache, cross, project)
        if turns is not None:
            query, _ = self.apply_rotary_position_embeddings(turns, query, query)
        projected, known = Projected(query, key, value), Known(is_causal=True if self.is_decoder else None)
        call = attend(self, projected, attention_mask, rooted_attention, self.dropout.p, known)
        return merge_heads(call.context), call.recorded()


CLASSES = {RoFormerSelfAttention: GraphRoFormerSelfAttention}
HOOKS: dict = {}
