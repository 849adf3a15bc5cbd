"""TrOCR's decoder attention."""

from __future__ import annotations

from torch import Tensor
from transformers.models.trocr.modeling_trocr import TrOCRAttention

from attngraph.reading.arguments import check_known
from attngraph.reading.families.bart_like import decoder_attention
from attngraph.reading.heads import merge_heads


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
        **others,
    ) -> tuple[Tensor, Tensor | None]:
        check_known(self, others)
        cache = past_key_values if cache is None else cache  # the argument's name changed between releases
        call = decoder_attention(self, hidden_states, key_value_states, cache, attention_mask)
        return self.out_proj(merge_heads(call.context)), call.weight if output_attentions else None


CLASSES = {TrOCRAttention: GraphTrOCRAttention}
HOOKS: dict = {}
