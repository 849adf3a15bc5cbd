"""TrOCR's decoder attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache
from transformers.models.trocr.modeling_trocr import TrOCRAttention

from attngraph.reading.attend import Known, Projected, attend
from attngraph.reading.heads import merge_heads, split_heads


def _scaled_query_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    scores = query * module.scaling @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores + attention_mask
    weight = nn.functional.dropout(scores.softmax(-1), dropout, module.training)
    return (weight @ value).transpose(1, 2), weight


class GraphTrOCRAttention(TrOCRAttention):
    """Self-attention, ordered in time, and cross-attention."""

    def forward(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        cache=None,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        past_key_values=None,
        **_,
    ) -> tuple[Tensor, Tensor | None]:
        cache = past_key_values if cache is None else cache  # the argument's name changed between releases
        cross, both = key_value_states is not None, isinstance(cache, EncoderDecoderCache)
        store = (cache.cross_attention_cache if cross else cache.self_attention_cache) if both else cache
        if cross and both and cache.is_updated.get(self.layer_idx):
            key, value = store.layers[self.layer_idx].keys, store.layers[self.layer_idx].values
        else:
            states = key_value_states if cross else hidden_states
            key, value = (
                split_heads(project(states), self.head_dim) for project in (self.k_proj, self.v_proj)
            )
            if store is not None:
                key, value = store.update(key, value, self.layer_idx)
                if cross and both:
                    cache.is_updated[self.layer_idx] = True
        query = split_heads(self.q_proj(hidden_states), self.head_dim)
        projected, known = Projected(query, key, value), Known(is_causal=True)
        call = attend(self, projected, attention_mask, _scaled_query_attention, self.dropout or 0.0, known)
        return self.out_proj(merge_heads(call.context)), call.weight if output_attentions else None


CLASSES = {TrOCRAttention: GraphTrOCRAttention}
HOOKS: dict = {}
