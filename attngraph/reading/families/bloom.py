"""BLOOM's attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.bloom.modeling_bloom import BloomAttention, dropout_add

from attngraph.errors import UserError
from attngraph.reading.arguments import check_known
from attngraph.reading.attend import Known, Projected, attend
from attngraph.reading.families.eager import weighted
from attngraph.reading.heads import merge_heads
from attngraph.reading.hub import hub_of


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    alibi: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores are added to the bias in one product."""
    assert alibi is not None
    b, h, n, _ = query.shape
    product = query.reshape(b * h, n, -1), key.reshape(b * h, key.shape[2], -1).transpose(1, 2)
    scores = alibi.baddbmm(*product, beta=module.beta, alpha=module.inv_norm_factor).view(b, h, n, -1)
    return weighted(module, scores, value, attention_mask, dropout, torch.float32)


class GraphBloomAttention(BloomAttention):
    """Self-attention, ordered in time, with a bias by distance (ALiBi)."""

    def forward(
        self,
        hidden_states: Tensor,
        residual: Tensor,
        alibi: Tensor,
        attention_mask: Tensor,
        layer_past=None,
        use_cache: bool = False,
        output_attentions: bool = False,
        **others,
    ) -> tuple[Tensor, Tensor | None]:
        """As the original.

        Raises:
            UserError: the layer has listeners, and an output projection in slices.
        """
        check_known(self, others)
        hub = hub_of(self)
        if self.slow_but_exact and self.pretraining_tp > 1:
            if hub.listeners:
                raise UserError(
                    f"{hub.site.name} projects its output in slices and without a bias (slow_but_exact), so "
                    "that no graph has it: set slow_but_exact=False in the model's configuration, or leave "
                    "the layer out (layers=...; for adapters exclude_modules=...)"
                )
            return super().forward(
                hidden_states, residual, alibi, attention_mask, layer_past, use_cache, output_attentions
            )
        query, key, value = self._reshape(self.query_key_value(hidden_states))
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_idx)
        projected, known = Projected(query, key, value), Known(is_causal=True)
        call = attend(
            self, projected, attention_mask, _attention, self.attention_dropout.p, known, alibi=alibi
        )
        output = self.dense(merge_heads(call.context))
        return dropout_add(output, residual, self.hidden_dropout, self.training), call.recorded()


CLASSES = {BloomAttention: GraphBloomAttention}
HOOKS: dict = {}
