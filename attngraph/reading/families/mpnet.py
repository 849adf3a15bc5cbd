"""MPNet's attention."""

from __future__ import annotations

from torch import Tensor
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

from attngraph.reading.arguments import check_known
from attngraph.reading.attend import Known, Projected, attend
from attngraph.reading.families.eager import rooted_attention
from attngraph.reading.heads import merge_heads, split_heads


class GraphMPNetSelfAttention(MPNetSelfAttention):
    """Self-attention with a bias by relative position."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        output_attentions: bool = False,
        **others,
    ) -> tuple[Tensor, ...]:
        check_known(self, others)
        states = (x(hidden_states) for x in (self.q, self.k, self.v))
        call = attend(
            self,
            Projected(*(split_heads(x, self.attention_head_size) for x in states)),
            attention_mask,
            rooted_attention,
            self.dropout.p,
            Known(is_causal=False),
            position_bias=position_bias,
        )
        output = self.o(merge_heads(call.context))
        return (output, call.dropped) if output_attentions else (output,)


CLASSES = {MPNetSelfAttention: GraphMPNetSelfAttention}
HOOKS: dict = {}
