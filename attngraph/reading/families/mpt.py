"""MPT's attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.mpt.modeling_mpt import MptAttention

from attngraph.reading.arguments import check_known
from attngraph.reading.attend import Known, Projected, attend
from attngraph.reading.families.eager import weighted
from attngraph.reading.heads import merge_heads, split_heads


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    scores = query @ key.transpose(-1, -2) * module.softmax_scale
    if position_bias is not None:
        scores = scores + position_bias
    return weighted(module, scores, value, attention_mask, dropout, torch.float32)


class GraphMptAttention(MptAttention):
    """Self-attention, ordered in time, with a bias by distance (ALiBi)."""

    def forward(
        self,
        hidden_states: Tensor,
        position_bias: Tensor | None,
        cache=None,
        attention_mask: Tensor | None = None,
        past_key_values=None,
        **others,
    ) -> tuple[Tensor, Tensor | None]:
        check_known(self, others)
        cache = past_key_values if cache is None else cache  # the argument's name changed between releases
        states = self.Wqkv(hidden_states)
        if self.clip_qkv:
            states = states.clamp(-self.clip_qkv, self.clip_qkv)
        query, key, value = (split_heads(x, self.head_dim) for x in states.chunk(3, dim=2))
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        if position_bias is not None:  # (h, 1, positions), of which the last belong to the keys
            position_bias = position_bias[:, :, max(0, position_bias.shape[2] - key.shape[2]) :]
        visible = None if attention_mask is None else ~attention_mask  # here True hides
        call = attend(
            self,
            Projected(query, key, value),
            visible,
            _attention,
            self.attn_dropout_p,
            Known(is_causal=True),
            position_bias=position_bias,
        )
        return self.out_proj(merge_heads(call.context)), call.recorded()


CLASSES = {MptAttention: GraphMptAttention}
HOOKS: dict = {}
