"""mPLUG's text decoder: BERT's with causal self-attention, and cross-attention to what it is given."""

from __future__ import annotations

from typing import Any

from transformers import BertLMHeadModel, Cache, DynamicCache
from transformers.cache_utils import EncoderDecoderCache


class MPlugTextDecoder(BertLMHeadModel):
    """``generate`` takes ``encoder_hidden_states`` and ``encoder_attention_mask`` besides the prompt. Their
    keys and values are computed once."""

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """transformers' own, with a place for the keys and values of cross-attention in the cache: it gives
        decoders without an encoder of their own none."""
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        for name in ("cache", "past_key_values"):  # the argument's name changed between releases
            cache = inputs.get(name)
            if isinstance(cache, Cache) and not isinstance(cache, EncoderDecoderCache):
                inputs[name] = EncoderDecoderCache(cache, DynamicCache())
        return inputs
