"""GPT-Neo's attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

from attngraph.reading.arguments import check_known
from attngraph.reading.attend import Known, Projected, attend
from attngraph.reading.heads import merge_heads, split_heads


def _unscaled_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The product of queries and keys, in float32 and not divided by anything."""
    scores = query.float() @ key.float().transpose(-1, -2)
    if attention_mask is not None:
        scores = scores + attention_mask
    weight = nn.functional.dropout(scores.softmax(-1).to(value.dtype), dropout, module.training)
    return (weight @ value).transpose(1, 2), weight


class GraphGPTNeoSelfAttention(GPTNeoSelfAttention):
    """Self-attention, ordered in time, to all earlier words or to those in a window."""

    @property
    def layer_idx(self) -> int:
        return self.layer_id

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        layer_past=None,
        use_cache: bool = False,
        output_attentions: bool = False,
        **others,
    ) -> tuple[Tensor, Tensor | None]:
        check_known(self, others)
        states = (x(hidden_states) for x in (self.q_proj, self.k_proj, self.v_proj))
        query, key, value = (split_heads(x, self.head_dim) for x in states)
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_id)
        n, m = query.shape[2], key.shape[2]
        hidden = ~self.bias[:, :, m - n : m, :m]
        mask = torch.zeros_like(hidden, dtype=torch.float32).masked_fill(
            hidden, torch.finfo(torch.float32).min
        )
        if attention_mask is not None:
            mask = mask + attention_mask
        projected, known = Projected(query, key, value), Known(is_causal=True)
        call = attend(self, projected, mask, _unscaled_attention, self.attn_dropout.p, known, scaling=1.0)
        return self.resid_dropout(self.out_proj(merge_heads(call.context))), call.recorded()


CLASSES = {GPTNeoSelfAttention: GraphGPTNeoSelfAttention}
HOOKS: dict = {}
