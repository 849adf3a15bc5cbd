"""Information about attention that only an outer module has: the order and padding of queries, caches, the
stream of a call. A hook on that module notes it for the attention inside.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from attngraph.errors import UserError
from attngraph.reading.attend import Known
from attngraph.reading.masks import read_mask
from attngraph.reading.state import arguments, find_state, state_of


def _note_mask(layer: nn.Module, args: tuple, kwargs: dict) -> None:
    """In Idefics' and Mllama's text models cross-attention may run before any self-attention. Its layers are
    given the mask of self-attention: note it, with the place of self-attention's first layer in the key/value
    cache. A call of self-attention before would say the same, but not where a layer runs again in the
    backward pass (gradient checkpointing), perhaps after another forward pass."""
    attention: Any = layer.cross_attn
    state = find_state(attention)
    if state is not None:
        layers: Any = getattr(state.inner_model, "layers", ())
        place = next((k for k, other in enumerate(layers) if hasattr(other, "self_attn")), None)
        state.notes["self_attention"] = arguments(layer, args, kwargs).get("attention_mask"), place


def _note_cache(model: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Idefics does not give its key/value cache, which it would make later, to cross-attention."""
    given = arguments(model, args, kwargs)
    cache = next((x for x in given.values() if isinstance(x, Cache)), None)
    use_cache = given.get("use_cache")
    if cache is None and (model.config.use_cache if use_cache is None else use_cache):
        cache = DynamicCache(config=model.config)
        names = signature(type(model).forward).parameters  # the argument's name changed between releases
        kwargs = kwargs | {"cache" if "cache" in names else "past_key_values": cache}
    for layer in model.gated_cross_attn_layers:
        state = find_state(layer.cross_attn)
        if state is not None:
            state.notes["cache"] = cache
    return args, kwargs


def _keep_all(model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The last layers of Gemma 4's language model use keys and values of earlier ones. ``generate`` asks for
    the last word of a prompt only, and the degrees that the others leave on the values would be missing."""
    return args, kwargs | {"logits_to_keep": 0}


def _note_order(model: Any, args: tuple, kwargs: dict) -> None:
    """PaliGemma's text is a prefix that sees itself, followed by words in order. Its attention modules
    declare their queries unordered, and the mask of a prefix alone does not show that words will follow."""
    for layer in model.language_model.layers:
        state = find_state(layer.self_attn)
        if state is not None:
            state.notes["is_causal"] = True


def _refuse_compressed(module: Any, args: tuple, kwargs: dict) -> None:
    """Of DeepSeek-V4's layers only those without compressed entries are graphs of tokens.

    Raises:
        UserError: the layer has listeners, and attends to compressed entries too.
    """
    state = state_of(module)
    if module.compressor is not None and state.listeners:
        raise UserError(
            f"{state.site.name} attends to tokens and to compressed runs of tokens in one softmax, so that "
            "its values are of two kinds: exclude the layer (layers=...; for adapters exclude_modules=...)"
        )


def _refuse_landmarks(module: Any, args: tuple, kwargs: dict) -> None:
    """Nyströmformer attends to landmarks, and these to values, unless a text is as short as there are
    landmarks.

    Raises:
        UserError: the layer has listeners, and landmarks.
    """
    state = state_of(module)
    if module.num_landmarks != module.seq_len and state.listeners:
        raise UserError(
            f"{state.site.name} is a product of three softmaxes, of which none is that of queries and "
            "values: exclude the layer (layers=...; for adapters exclude_modules=...)"
        )


def _refuse_reordered(module: Any, args: tuple, kwargs: dict) -> None:
    """GPT-2's eager attention may be another function than the one that all models share.

    Raises:
        UserError: the layer has listeners, and it is.
    """
    state = state_of(module)
    eager = module.config._attn_implementation == "eager"
    if eager and module.reorder_and_upcast_attn and state.listeners:
        raise UserError(
            f"{state.site.name} has a separate eager attention (reorder_and_upcast_attn): load the model "
            "with reorder_and_upcast_attn=False, which gives the same weights in float32"
        )


def _note_directions(layer: Any, args: tuple, kwargs: dict) -> None:
    """A cross-modality layer of LXMERT runs one module for both directions: words that attend to regions,
    then regions that attend to words. The queries' own padding is not among its arguments."""
    given = arguments(layer, args, kwargs)

    def valid(side: str) -> Tensor | None:
        b, n = given[f"{side}_feats"].shape[:2]
        return read_mask(given[f"{side}_attention_mask"], (b, 1, n, n)).queries

    state = find_state(layer.visual_attention.att)
    if state is not None:
        state.notes["turns"] = [
            Known(sides=("text", "image"), query_mask=valid("lang")),
            Known(sides=("image", "text"), query_mask=valid("visual")),
        ]


def _note_valid(model: Any, args: tuple, kwargs: dict) -> None:
    """Note which of XLNet's words are valid: a padded word sees itself, so the mask does not show it."""
    given = arguments(model, args, kwargs)
    padding, mask = given.get("input_mask"), given.get("attention_mask")
    valid = None if mask is None else mask > 0
    valid = padding == 0 if padding is not None else valid
    for layer in model.layer:
        state = find_state(layer.rel_attn)
        if state is not None:
            state.notes["valid"] = valid


def _note_streams(module: Any, args: tuple, kwargs: dict) -> None:
    """XLNet's content stream attends to itself and to its memory (``mems``); then the query stream, if there
    is one, attends to the content stream."""
    notes = state_of(module).notes
    notes["turns"] = [Known(cross=False, query_mask=notes["valid"]), Known(cross=True)]


def _hide_pairs(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Shifted windows hide pairs by -100, which could be a position bias. With the minimum of the dtype
    instead, their weights, of the order of e^-100, become 0, and the pairs are known to be hidden."""
    given = arguments(module, args, kwargs)
    mask = given.get("attention_mask")
    if mask is not None:
        given["attention_mask"] = mask.masked_fill(mask <= -100, torch.finfo(mask.dtype).min)
    return (), given


HOOKS: dict[str, Callable] = {
    "ClapAudioSelfAttention": _hide_pairs,
    "DecisionTransformerGPT2Attention": _refuse_reordered,
    "DeepseekV4Attention": _refuse_compressed,
    "DonutSwinSelfAttention": _hide_pairs,
    "GPT2Attention": _refuse_reordered,
    "Gemma4TextModel": _keep_all,
    "Gemma4UnifiedTextModel": _keep_all,
    "IdeficsGatedCrossAttentionLayer": _note_mask,
    "IdeficsModel": _note_cache,
    "LxmertXLayer": _note_directions,
    "MaskFormerSwinSelfAttention": _hide_pairs,
    "MllamaCrossAttentionDecoderLayer": _note_mask,
    "NystromformerSelfAttention": _refuse_landmarks,
    "PaliGemmaModel": _note_order,
    "Swin2SRSelfAttention": _hide_pairs,
    "SwinAttention": _hide_pairs,
    "Swinv2SelfAttention": _hide_pairs,
    "XLNetModel": _note_valid,
    "XLNetRelativeAttention": _note_streams,
}
"""``{name of a class of transformers: forward pre-hook}``"""
