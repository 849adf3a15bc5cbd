"""Reading attention graphs from BLIP's text decoder while it runs.

transformers' BLIP does not go through its ``AttentionInterface``, so the attention is computed here, step by step as
the model does it, whenever somebody wants to see the graph; otherwise the model's own code runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache
from transformers.models.blip.modeling_blip_text import BlipTextModel, BlipTextSelfAttention

from attngraph.degree_cache import degree_cache_of
from attngraph.errors import UserError
from attngraph.graph import AttentionGraph


@dataclass(frozen=True)
class Site:
    """One attention layer of the text decoder.

    Args:
        name: module name inside the decoder's encoder, ``layer.0.crossattention``.
        kind: ``"self"`` or ``"cross"``.
        attention: the module that computes weights and context.
        output: the module with :math:`W_o`, dropout, residual and LayerNorm.
        ffn_output: the feed-forward block's output module in the same layer.
    """

    name: str
    kind: str
    attention: BlipTextSelfAttention
    output: nn.Module
    ffn_output: nn.Module


def text_model(model: nn.Module) -> BlipTextModel:
    """The ``BlipTextModel`` inside a BLIP model.

    Raises:
        UserError: there is none.
    """
    found = [module for module in model.modules() if isinstance(module, BlipTextModel)]
    if len(found) != 1:
        raise UserError(f"{type(model).__name__} holds {len(found)} BlipTextModel modules, need exactly one: "
                        "pass a BlipForConditionalGeneration or its text_decoder")
    return found[0]


def sites(model: nn.Module) -> list[Site]:
    """All attention layers of the text decoder, in the order in which they run."""
    found = []
    for k, layer in enumerate(text_model(model).encoder.layer):
        found.append(Site(f"layer.{k}.attention", "self", layer.attention.self, layer.attention.output, layer.output))
        if hasattr(layer, "crossattention"):
            found.append(Site(f"layer.{k}.crossattention", "cross", layer.crossattention.self,
                              layer.crossattention.output, layer.output))
    return found


class Parts(NamedTuple):
    """What one attention call computed. ``weight`` is before dropout, ``dropped`` after it."""

    query: Tensor  # b h n d
    value: Tensor  # b h m d
    weight: Tensor  # b h n m
    dropped: Tensor  # b h n m
    visible: Tensor | None  # b n m, bool


def attend(module: BlipTextSelfAttention, hidden_states: Tensor, attention_mask: Tensor | None = None,
           encoder_hidden_states: Tensor | None = None, encoder_attention_mask: Tensor | None = None,
           cache=None, past_key_values=None, **_) -> Parts:
    """The model's attention, returning its parts; takes what ``BlipTextSelfAttention.forward`` takes.

    Keys and values come from the cache where there is one: in cached decoding the value projection of cross-attention
    is not called again.
    """
    cache = past_key_values if cache is None else cache  # the argument's name changed between releases
    cross = encoder_hidden_states is not None
    layer = module.layer_idx
    query = _heads(module, module.query(hidden_states))
    store = _store(cache, cross)
    reuse = cross and isinstance(cache, EncoderDecoderCache) and cache.is_updated.get(layer)
    if reuse:
        key, value = store.layers[layer].keys, store.layers[layer].values
    else:
        source = encoder_hidden_states if cross else hidden_states
        key, value = _heads(module, module.key(source)), _heads(module, module.value(source))
        if store is not None:
            key, value = store.update(key, value, layer)
            if cross and isinstance(cache, EncoderDecoderCache):
                cache.is_updated[layer] = True
    scores = query @ key.transpose(-1, -2) / module.attention_head_size**0.5
    mask = encoder_attention_mask if cross else attention_mask
    if mask is not None:
        scores = scores + mask
    weight = scores.softmax(-1)
    return Parts(query, value, weight, module.dropout(weight), _visible(mask, weight))


def _heads(module: BlipTextSelfAttention, x: Tensor) -> Tensor:
    """``(b, n, h·d)`` to ``(b, h, n, d)``."""
    return x.view(*x.shape[:-1], -1, module.attention_head_size).transpose(1, 2)


def _store(cache, cross: bool):
    """The part of a key/value cache that one kind of attention uses."""
    if isinstance(cache, EncoderDecoderCache):
        return cache.cross_attention_cache if cross else cache.self_attention_cache
    return cache


def _visible(mask: Tensor | None, weight: Tensor) -> Tensor | None:
    """An additive mask ``(b, 1, n, m)`` as the bool mask ``(b, n, m)``."""
    if mask is None:
        return None
    b, _, n, m = weight.shape
    return (mask > torch.finfo(mask.dtype).min / 2)[:, 0].expand(b, n, m)


def merge_heads(x: Tensor) -> Tensor:
    """``(b, h, n, d)`` to ``(b, n, h·d)``."""
    return x.transpose(1, 2).flatten(2)


def head_metric(dense: nn.Linear, heads: int) -> Tensor:
    r"""Gram matrices :math:`W_o^h {W_o^h}^\top`, ``(h, d, d)``, of an output projection; float32 in half precision, also
    under autocast, since distances are differences of its products."""
    weight = dense.weight.float() if dense.weight.dtype in (torch.float16, torch.bfloat16) else dense.weight
    slices = weight.view(dense.out_features, heads, dense.in_features // heads).transpose(0, 1)  # h, out, d
    with torch.autocast(weight.device.type, enabled=False):
        return slices.transpose(-1, -2) @ slices


class Queries:
    """What an attention layer is not told about the current queries; found out by listening to the running model.

    Attributes:
        mask: ``(b, n)`` bool, which of them are valid tokens: those that self-attention lets see themselves; None when all
            are. Cross-attention goes by the self-attention before it in the same layer. That holds for any mask the model
            is given, and when gradient checkpointing runs a layer again later.
        causal: whether the model runs as a decoder. BLIP takes that from an argument of the call, not from its
            configuration.
    """

    def __init__(self, text: BlipTextModel):
        self.mask: Tensor | None = None
        self.causal = bool(text.config.is_decoder)
        self._hooks = [layer.attention.self.register_forward_pre_hook(self._listen, with_kwargs=True)
                       for layer in text.encoder.layer]
        self._hooks.append(text.register_forward_pre_hook(self._begin, with_kwargs=True))

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.causal = bool(kwargs.get("is_decoder", False))

    def _listen(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        hidden_states = args[0] if args else kwargs["hidden_states"]
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)  # b 1 n m, added to the scores
        if mask is None:
            self.mask = None
            return
        n, m = mask.shape[-2:]
        itself = mask[:, 0].diagonal(m - n, -2, -1) > torch.finfo(mask.dtype).min / 2
        self.mask = itself.expand(hidden_states.shape[0], n)

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


@contextmanager
def read_attention(model: nn.Module, on_graph: Callable[[str, AttentionGraph], None] | None = None
                   ) -> Iterator[dict[str, list[AttentionGraph]]]:
    """Collect an attention graph per layer and call of BLIP's text decoder while the model runs.

    Args:
        model: a BLIP model (plain or adapted).
        on_graph: called with (layer name, graph) instead of collecting, to keep memory bounded.

    Yields:
        ``{layer name: [graph of the first call, of the second, ...]}``. Weights are those *before* dropout.

    Raises:
        UserError: at the end, if a layer was never seen.

    Example:
        >>> with read_attention(model) as graphs:
        ...     model.text_decoder(input_ids, encoder_hidden_states=image)
        >>> graphs["layer.0.crossattention"][0].to_data()
    """
    seen: dict[str, list[AttentionGraph]] = {site.name: [] for site in sites(model)}
    calls = dict.fromkeys(seen, 0)
    queries = Queries(text_model(model))

    def reader(site: Site):
        metric = head_metric(site.output.dense, site.attention.num_attention_heads).detach()

        def after(module, args, kwargs, output):
            graph = _graph_after(module, args, kwargs, output[1], queries, metric)
            calls[site.name] += 1
            if on_graph is None:
                seen[site.name].append(graph)
            else:
                on_graph(site.name, graph)

        return after

    hooks = [site.attention.register_forward_hook(reader(site), with_kwargs=True) for site in sites(model)]
    try:
        yield seen
    finally:
        queries.remove()
        for hook in hooks:
            hook.remove()
    missing = [name for name, count in calls.items() if count == 0]
    if missing:
        raise UserError(f"no attention was seen in {', '.join(missing)}: run the decoder on text and "
                        "encoder_hidden_states inside the with block")


def _graph_after(module: BlipTextSelfAttention, args: tuple, kwargs: dict, weight: Tensor, queries: Queries,
                 metric: Tensor) -> AttentionGraph:
    """The graph of a call that has just been made; ``weight`` is what the module returned, before dropout."""
    hidden_states = args[0] if args else kwargs["hidden_states"]
    encoder = kwargs.get("encoder_hidden_states")
    cross = encoder is not None
    cache = kwargs.get("cache", kwargs.get("past_key_values"))
    store = _store(cache, cross)
    query = _heads(module, module.query(hidden_states))
    if store is not None:
        value = store.layers[module.layer_idx].values
    else:
        value = _heads(module, module.value(encoder if cross else hidden_states))
    causal = queries.causal
    name = "read cross" if cross else "read self"
    degrees = degree_cache_of(cache, module.layer_idx, name, query.shape[2]) if causal else None
    graph = AttentionGraph(
        query, value, weight, query_mask=queries.mask,
        value_mask=_visible(kwargs.get("encoder_attention_mask" if cross else "attention_mask"), weight),
        causal=causal, metric=metric, past_degree=None if degrees is None else degrees.past(value.shape[2]),
    )
    if degrees is not None:
        degrees.append(graph)
    return graph
