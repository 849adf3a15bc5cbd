"""Graph adapters in BLIP's text decoder: after :math:`W_o` and dropout, before the residual and LayerNorm."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from transformers.models.blip.modeling_blip_text import BlipTextOutput, BlipTextSelfAttention, BlipTextSelfOutput

from adapters.adapter import AdapterSet, GraphAdapter
from adapters.bottleneck import Bottleneck
from adapters.config import AdapterConfig
from attngraph.blip import Queries, attend, head_metric, merge_heads, sites, text_model
from attngraph.degree_cache import degree_cache_of
from attngraph.errors import UserError
from attngraph.graph import AttentionGraph


class _Attention(BlipTextSelfAttention):
    """Returns the plain context, and leaves the aggregated one for the output module."""

    def forward(self, hidden_states, *args, **kwargs):
        site = self.attngraph_site
        if not site.owner.enabled:
            return super().forward(hidden_states, *args, **kwargs)
        return site.attend(self, hidden_states, *args, **kwargs)


class _SelfOutput(BlipTextSelfOutput):
    """Output projection and LayerNorm with the adapter in between."""

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        site = self.attngraph_site
        if not site.owner.enabled:
            return super().forward(hidden_states, input_tensor)
        adapter = self.attngraph_adapter
        joined = adapter.join(hidden_states, site.take(), lambda x: self.dropout(self.dense(x)), adapter.scheme)
        return self.LayerNorm(joined + input_tensor)


class _FeedForwardOutput(BlipTextOutput):
    """Feed-forward output with the vanilla adapter :math:`x + σ(x W_{down}) W_{up}` before the residual."""

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        if not self.attngraph_site.owner.enabled:
            return super().forward(hidden_states, input_tensor)
        x = self.dropout(self.dense(hidden_states))
        return self.LayerNorm(x + self.attngraph_adapter(x) + input_tensor)


class _Site:
    """One adapted layer: what its attention and output modules share. No module, so it owns no parameters."""

    def __init__(self, kind: str, queries: Queries, dense: nn.Linear):
        self.kind, self.queries, self.dense = kind, queries, dense
        self.owner: AdapterSet | None = None
        self.adapter: GraphAdapter | None = None
        self._aggregated: Tensor | None = None
        self._metric: tuple | None = None

    def attend(self, module: BlipTextSelfAttention, *args, **kwargs) -> tuple[Tensor, Tensor]:
        parts = attend(module, *args, **kwargs)
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        degrees = None
        causal = self.queries.causal
        if causal:
            degrees = degree_cache_of(cache, module.layer_idx, self.kind, parts.query.shape[2])
        graph = AttentionGraph(
            parts.query, parts.value, parts.dropped, query_mask=self.queries.mask, value_mask=parts.visible,
            causal=causal, metric=self.metric(module.num_attention_heads),
        )
        if self.adapter.top_k is not None:
            graph = graph.sparsify(top_k=self.adapter.top_k)
        if degrees is not None:
            graph = replace(graph, past_degree=degrees.past(parts.value.shape[2]))
            degrees.append(graph)
        self._aggregated = merge_heads(self.adapter.scheme(graph, self.adapter.backend))
        return merge_heads(parts.dropped @ parts.value), parts.weight

    def take(self) -> Tensor:
        """The aggregated context of the call just made."""
        aggregated, self._aggregated = self._aggregated, None
        return aggregated

    def metric(self, heads: int) -> Tensor:
        """The heads' Gram matrices, kept while the frozen projection stays the same. Writes that go round PyTorch's
        version counter, as ``weight.data.copy_`` does, are not noticed."""
        weight = self.dense.weight
        if weight.is_inference() or weight.requires_grad and torch.is_grad_enabled():
            return head_metric(self.dense, heads)
        key = (weight.data_ptr(), weight._version, weight.dtype)
        if self._metric is None or self._metric[0] != key:
            with torch.inference_mode(False):  # so that it can be used in training later
                self._metric = key, head_metric(self.dense, heads).detach()
        return self._metric[1]


def attach(model: nn.Module, config: AdapterConfig) -> AdapterSet:
    """Freeze a BLIP model and put adapters into its text decoder.

    An adapted model runs in one thread at a time (so not under ``nn.DataParallel``; use one process per device).

    Args:
        model: ``BlipForConditionalGeneration`` or its ``text_decoder``; changed in place.
        config: what the adapters are made of.

    Returns:
        The adapters; only their parameters require gradients.

    Raises:
        UserError: no BLIP text decoder, adapters are in already, or accelerate has hooks on the model.
    """
    text = text_model(model)
    places = sites(model)
    if any(hasattr(module, "attngraph_site") for module in text.modules()):
        raise UserError("this model has graph adapters already: call detach() on them first")
    if any("forward" in module.__dict__ for module in text.modules()):
        raise UserError("this model has hooks on its forward methods, as accelerate's dispatch_model and device_map put "
                        "there; adapters would not run: attach them before, or remove the hooks")
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    queries = Queries(text)
    like = text.embeddings.word_embeddings.weight
    modules: dict[str, nn.Module] = {}
    all_sites: list[_Site] = []
    shared = config.scheme() if config.shared else None
    undo: list[tuple[nn.Module, type]] = []

    def change(module: nn.Module, kind: type, site: _Site, adapter: nn.Module | None = None) -> None:
        undo.append((module, type(module)))
        module.__class__ = kind
        module.attngraph_site = site
        if adapter is not None:
            module.attngraph_adapter = adapter.to(like.device, like.dtype)
            for parameter in adapter.parameters():
                if parameter.dim() == 0:  # a share, p, μ: their steps are too small for half precision
                    parameter.data = parameter.data.float()

    for place in places:
        site = _Site(place.kind, queries, place.output.dense)
        all_sites.append(site)
        width = place.output.dense.out_features
        if place.kind in config.positions:
            site.adapter = modules[place.name] = GraphAdapter(config, width, shared or config.scheme())
            change(place.attention, _Attention, site)
            change(place.output, _SelfOutput, site, site.adapter)
        if place.kind == "self" and "ffn" in config.positions:
            name = place.name.replace("attention", "ffn")
            modules[name] = Bottleneck(width, max(1, width // config.reduction))
            change(place.ffn_output, _FeedForwardOutput, site, modules[name])

    adapters = AdapterSet(config, modules, partial(_take_out, queries, undo, trainable))
    for site in all_sites:
        site.owner = adapters
    return adapters


def _take_out(queries: Queries, undo: list[tuple[nn.Module, type]], trainable: list[nn.Parameter]) -> None:
    if any("forward" in module.__dict__ for module, _ in undo):
        raise UserError("this model has hooks on its forward methods, as accelerate puts there: remove them before detach()")
    queries.remove()
    while undo:
        module, kind = undo.pop()
        module.__class__ = kind
        del module.attngraph_site
        if hasattr(module, "attngraph_adapter"):
            del module.attngraph_adapter
    while trainable:
        trainable.pop().requires_grad_(True)
