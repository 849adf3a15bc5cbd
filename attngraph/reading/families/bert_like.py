"""RemBERT's and Megatron-BERT's attention, which is BERT's with a cache, written out."""

from __future__ import annotations

from torch import Tensor, nn
from transformers.models.megatron_bert.modeling_megatron_bert import MegatronBertSelfAttention
from transformers.models.rembert.modeling_rembert import RemBertSelfAttention

from attngraph.reading.arguments import check_known
from attngraph.reading.attend import Known, Projected, attend
from attngraph.reading.families.cached import with_cache
from attngraph.reading.families.eager import rooted_attention
from attngraph.reading.heads import merge_heads, split_heads


class _BertLike(nn.Module):
    """Self- and cross-attention."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    dropout: nn.Dropout
    attention_head_size: int
    is_decoder: bool

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        cache=None,
        output_attentions: bool | None = False,
        past_key_values=None,
        **others,
    ) -> tuple[Tensor, Tensor | None]:
        check_known(self, others)
        cache = past_key_values if cache is None else cache  # the argument's name changed between releases
        cross, features = encoder_hidden_states is not None, self.attention_head_size
        states = encoder_hidden_states if cross else hidden_states

        def project() -> tuple[Tensor, Tensor]:
            return split_heads(self.key(states), features), split_heads(self.value(states), features)

        query = split_heads(self.query(hidden_states), features)
        projected = Projected(query, *with_cache(self, cache, cross, project))
        known = Known(is_causal=True if self.is_decoder else None)
        call = attend(self, projected, attention_mask, rooted_attention, self.dropout.p, known)
        return merge_heads(call.context), call.recorded()


class GraphRemBertSelfAttention(_BertLike, RemBertSelfAttention):
    """RemBERT's."""


class GraphMegatronBertSelfAttention(_BertLike, MegatronBertSelfAttention):
    """Megatron-BERT's."""


CLASSES = {
    RemBertSelfAttention: GraphRemBertSelfAttention,
    MegatronBertSelfAttention: GraphMegatronBertSelfAttention,
}
HOOKS: dict = {}
