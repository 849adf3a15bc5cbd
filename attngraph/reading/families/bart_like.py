"""What TrOCR and XGLM share: decoder attention laid out as BART's."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attngraph.reading.attend import Known, Projected, attend
from attngraph.reading.calls import Call
from attngraph.reading.families.cached import with_cache
from attngraph.reading.families.eager import scaled_query_attention
from attngraph.reading.heads import split_heads


def decoder_attention(
    module: Any,
    hidden_states: Tensor,
    key_value_states: Tensor | None,
    cache: Any,
    attention_mask: Tensor | None,
) -> Call:
    """Self-attention, ordered in time, or cross-attention to ``key_value_states``.

    Args:
        module: with ``q_proj``, ``k_proj`` and ``v_proj``, and queries multiplied by its ``scaling``.
        hidden_states: ``(b, n, h·d)``.
        key_value_states: ``(b, m, ...)``, or None for self-attention.
        cache: the model's, or None.
        attention_mask: added to the scores.
    """
    cross = key_value_states is not None
    states = key_value_states if cross else hidden_states

    def project() -> tuple[Tensor, Tensor]:
        key, value = module.k_proj(states), module.v_proj(states)
        return split_heads(key, module.head_dim), split_heads(value, module.head_dim)

    key, value = with_cache(module, cache, cross, project)
    query = split_heads(module.q_proj(hidden_states), module.head_dim)
    projected, known = Projected(query, key, value), Known(is_causal=True)
    return attend(module, projected, attention_mask, scaled_query_attention, module.dropout or 0.0, known)
