"""Falcon's attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.falcon.modeling_falcon import FalconAttention, apply_rotary_pos_emb

from attngraph.reading.arguments import check_known
from attngraph.reading.attend import Known, Projected, attend
from attngraph.reading.families.eager import rooted_attention, weighted
from attngraph.reading.heads import merge_heads


def _biased_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    alibi: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The bias is scaled with the scores."""
    assert alibi is not None and attention_mask is not None
    scores = query @ key.transpose(-1, -2)
    scores = (scores.float() + alibi.view(*scores.shape[:2], 1, -1)) * module.inv_norm_factor
    return weighted(module, scores, value, attention_mask, dropout, query.dtype)


class GraphFalconAttention(FalconAttention):
    """Self-attention, ordered in time: with rotary positions, and then without dropout, or with a bias by
    distance (ALiBi), which the model's mask holds once more."""

    def forward(
        self,
        hidden_states: Tensor,
        alibi: Tensor | None,
        attention_mask: Tensor,
        position_ids: Tensor | None = None,
        layer_past=None,
        use_cache: bool = False,
        output_attentions: bool = False,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **others,
    ) -> tuple[Tensor, Tensor | None]:
        check_known(self, others)
        states = self._split_heads(self.query_key_value(hidden_states))
        query, key, value = (x.transpose(1, 2) for x in states)
        if alibi is None:
            assert position_embeddings is not None
            query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_idx)
        projected, known = Projected(query, key, value), Known(is_causal=True)
        if alibi is None:
            call = attend(self, projected, attention_mask, rooted_attention, known=known)
        else:
            dropout = self.attention_dropout.p
            call = attend(self, projected, attention_mask, _biased_attention, dropout, known, alibi=alibi)
        return self.dense(merge_heads(call.context)), call.recorded()


CLASSES = {FalconAttention: GraphFalconAttention}
HOOKS: dict = {}
