"""The attention of DeBERTa, versions 1 and 2: scores of contents and, added, of relative positions."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.deberta.modeling_deberta import DisentangledSelfAttention as DebertaAttention
from transformers.models.deberta.modeling_deberta import scaled_size_sqrt
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention as DebertaV2Attention

from attngraph.errors import UserError
from attngraph.reading.attend import Known, Projected, attend
from attngraph.reading.families.eager import weighted
from attngraph.reading.heads import merge_heads, split_heads
from attngraph.reading.hub import hub_of


def _two_part_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scale: Tensor | float = 1.0,
    position_scores: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Version 2 divides keys by the scale, version 1 queries."""
    keys = key.transpose(-1, -2)
    scores = query @ (keys / scale) if isinstance(module, DebertaV2Attention) else query / scale @ keys
    if position_scores is not None:
        scores = scores + position_scores
    return weighted(module, scores, value, attention_mask, dropout)


class GraphDebertaV2Attention(DebertaV2Attention):
    """Version 2's, with positions in the scores of either side (``c2p``, ``p2c``) or none."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        states = hidden_states if query_states is None else query_states
        d = self.attention_head_size
        query, key = split_heads(self.query_proj(states), d), split_heads(self.key_proj(hidden_states), d)
        value = split_heads(self.value_proj(hidden_states), d)
        factor = 1 + ("c2p" in self.pos_att_type) + ("p2c" in self.pos_att_type)
        positions = None
        if self.relative_attention:
            embedded = self.pos_dropout(rel_embeddings)
            flat = query.flatten(0, 1), key.flatten(0, 1)
            positions = self.disentangled_attention_bias(*flat, relative_pos, embedded, factor)
            positions = positions.unflatten(0, query.shape[:2]) if isinstance(positions, Tensor) else None
        call = attend(
            self,
            Projected(query, key, value),
            attention_mask.bool(),
            _two_part_attention,
            self.dropout.p,
            Known(is_causal=False),
            scale=scaled_size_sqrt(query, factor).to(query.dtype),
            position_scores=positions,
        )
        return merge_heads(call.context), call.dropped if output_attentions else None


class GraphDebertaAttention(DebertaAttention):
    """Version 1's, whose bias of the query counts among its features. With talking heads, which mix the
    weights of all heads, it is no graph."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """As the original.

        Raises:
            UserError: the layer has listeners, and talking heads or queries of their own.
        """
        hub = hub_of(self)
        if self.talking_head or query_states is not None:
            if hub.listeners:
                raise UserError(
                    f"{hub.site.name} mixes the weights of its heads (talking_head) or is given queries of "
                    "its own, so that it has no graph for each head: leave the layer out (layers=...; for "
                    "adapters exclude_modules=...)"
                )
            return super().forward(
                hidden_states, attention_mask, output_attentions, query_states, relative_pos, rel_embeddings
            )
        heads = self.transpose_for_scores(self.in_proj(hidden_states))
        query, key, value = heads.chunk(3, dim=-1)
        query = query + self.transpose_for_scores(self.q_bias[None, None])
        value = value + self.transpose_for_scores(self.v_bias[None, None])
        factor = 1 + len(self.pos_att_type)
        scale = scaled_size_sqrt(query, factor).to(query.dtype)
        positions = None
        if self.relative_attention and rel_embeddings is not None and relative_pos is not None:
            embedded = self.pos_dropout(rel_embeddings)
            positions = self.disentangled_att_bias(query / scale, key, relative_pos, embedded, factor)
            positions = positions if isinstance(positions, Tensor) else None
        call = attend(
            self,
            Projected(query, key, value),
            attention_mask.bool(),
            _two_part_attention,
            self.dropout.p,
            Known(is_causal=False),
            scale=scale,
            position_scores=positions,
        )
        return merge_heads(call.context), call.dropped if output_attentions else None


CLASSES = {DebertaAttention: GraphDebertaAttention, DebertaV2Attention: GraphDebertaV2Attention}
HOOKS: dict = {}
