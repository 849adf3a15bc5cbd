"""Idefics' and Mllama's text models, where cross-attention may run before any self-attention.

Their cross-attention layers are given the mask of self-attention, which says how the queries are ordered and
which of them are padding. So does a self-attention call before them, but not where a layer runs again in the
backward pass (gradient checkpointing), perhaps after another forward pass.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

from torch import nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer, IdeficsModel
from transformers.models.mllama.modeling_mllama import MllamaCrossAttentionDecoderLayer

from attngraph.reading.arguments import arguments
from attngraph.reading.hub import find_hub


def _note_mask(layer: nn.Module, args: tuple, kwargs: dict) -> None:
    """Note the mask of self-attention, and the place of its first layer in the key/value cache."""
    attention: Any = layer.cross_attn
    hub = find_hub(attention)
    if hub is not None:
        layers: Any = getattr(hub.home, "layers", ())
        place = next((k for k, other in enumerate(layers) if hasattr(other, "self_attn")), None)
        hub.notes["self_attention"] = arguments(layer, args, kwargs).get("attention_mask"), place


def _note_cache(model: IdeficsModel, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Note the key/value cache, which cross-attention is not given, and which the model would make later."""
    given = arguments(model, args, kwargs)
    cache = next((x for x in given.values() if isinstance(x, Cache)), None)
    use_cache = given.get("use_cache")
    if cache is None and (model.config.use_cache if use_cache is None else use_cache):
        cache = DynamicCache(config=model.config)
        names = signature(type(model).forward).parameters  # the argument's name changed between releases
        kwargs = kwargs | {"cache" if "cache" in names else "past_key_values": cache}
    layers: Any = model.gated_cross_attn_layers
    for layer in layers:
        hub = find_hub(layer.cross_attn)
        if hub is not None:
            hub.notes["cache"] = cache
    return args, kwargs


CLASSES: dict[type, type] = {}
HOOKS = {
    IdeficsGatedCrossAttentionLayer: _note_mask,
    IdeficsModel: _note_cache,
    MllamaCrossAttentionDecoderLayer: _note_mask,
}
