"""Keys and values of families that look after a key/value cache themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.cache_utils import EncoderDecoderCache


def with_cache(
    module: Any, cache: Any, cross: bool, project: Callable[[], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Keys and values ``(b, g, m, d)``, those in the cache included.

    Args:
        module: has the layer's place in the cache as ``layer_idx``.
        cache: the model's, or None.
        cross: cross-attention, whose keys and values stay the same while a text is written: they are
            projected once.
        project: gives the keys and values of the states that this call has.
    """
    both = isinstance(cache, EncoderDecoderCache)
    store = (cache.cross_attention_cache if cross else cache.self_attention_cache) if both else cache
    if cross and both and cache.is_updated.get(module.layer_idx):
        layer = store.layers[module.layer_idx]
        return layer.keys, layer.values
    key, value = project()
    if store is not None:
        key, value = store.update(key, value, module.layer_idx)
        if cross and both:
            cache.is_updated[module.layer_idx] = True
    return key, value
