"""Graph adapters in BLIP's text decoder: after :math:`W_o` and dropout, before the residual and LayerNorm."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from transformers.models.blip.modeling_blip_text import BlipTextModel, BlipTextOutput, BlipTextSelfOutput

from adapters.adapter import AdapterSet, GraphAdapter, move
from adapters.bottleneck import Bottleneck
from adapters.config import AdapterConfig
from attngraph.errors import UserError
from attngraph.reading.calls import Call
from attngraph.reading.instrument import Instrument, Site, instrument


class _SelfOutput(BlipTextSelfOutput):
    """Output projection and LayerNorm with the adapter in between."""

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        site = self.attngraph_site
        if not site.owner.enabled:
            return super().forward(hidden_states, input_tensor)
        adapter = self.attngraph_adapter
        joined = adapter.join(
            hidden_states, site.take(), lambda x: self.dropout(self.dense(x)), adapter.scheme
        )
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

    def __init__(self, layer: Site):
        self.layer = layer
        self.owner: AdapterSet | None = None
        self.adapter: GraphAdapter | None = None
        self._aggregated: Tensor | None = None

    def listen(self, call: Call) -> None:
        """Aggregate over the graph of an attention call."""
        if not self.owner.enabled:
            return
        self._aggregated = self.adapter.aggregate(call)

    def take(self) -> Tensor:
        """The aggregated context of the call just made."""
        aggregated, self._aggregated = self._aggregated, None
        return aggregated


def text_model(model: nn.Module) -> BlipTextModel:
    """The ``BlipTextModel`` inside a BLIP model.

    Raises:
        UserError: there is none.
    """
    found = [module for module in model.modules() if isinstance(module, BlipTextModel)]
    if len(found) != 1:
        raise UserError(
            f"{type(model).__name__} holds {len(found)} BlipTextModel modules, need exactly one: "
            "pass a BlipForConditionalGeneration or its text_decoder"
        )
    return found[0]


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
    if any(hasattr(module, "attngraph_site") for module in text.modules()):
        raise UserError("this model has graph adapters already: call detach() on them first")
    if any("forward" in module.__dict__ for module in text.modules()):
        raise UserError(
            "this model has hooks on its forward methods, as accelerate's dispatch_model and device_map put "
            "there; adapters would not run: attach them before, or remove the hooks"
        )
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    handle = instrument(text)
    modules: dict[str, nn.Module] = {}
    all_sites: list[_Site] = []
    shared = config.scheme() if config.shared else None
    undo: list[tuple[nn.Module, type]] = []

    def change(module: nn.Module, kind: type, site: _Site, adapter: nn.Module | None = None) -> None:
        undo.append((module, type(module)))
        module.__class__ = kind
        module.attngraph_site = site
        if adapter is not None:
            move(adapter, module, text.embeddings.word_embeddings.weight)
            module.attngraph_adapter = adapter

    def adapt(k: int, name: str, block: nn.Module, width: int) -> None:
        site = _Site(handle.sites[f"encoder.layer.{k}.{name}.self"])
        all_sites.append(site)
        site.adapter = modules[f"layer.{k}.{name}"] = GraphAdapter(config, width, shared or config.scheme())
        site.layer.listeners.append(site.listen)
        change(block.self, type(block.self), site)
        change(block.output, _SelfOutput, site, site.adapter)

    for k, layer in enumerate(
        text.encoder.layer
    ):  # in this order, so that a seed gives the same adapters as ever
        width = layer.output.dense.out_features
        if "self" in config.positions:
            adapt(k, "attention", layer.attention, width)
        if "ffn" in config.positions:
            site = _Site(handle.sites[f"encoder.layer.{k}.attention.self"])
            all_sites.append(site)
            modules[f"layer.{k}.ffn"] = Bottleneck(width, max(1, width // config.reduction))
            change(layer.output, _FeedForwardOutput, site, modules[f"layer.{k}.ffn"])
        if "cross" in config.positions and hasattr(layer, "crossattention"):
            adapt(k, "crossattention", layer.crossattention, width)

    layers = {site.layer.name: site.adapter for site in all_sites if site.adapter is not None}
    adapters = AdapterSet(config, modules, layers, partial(_take_out, handle, undo, trainable))
    for site in all_sites:
        site.owner = adapters
    return adapters


def _take_out(handle: Instrument, undo: list[tuple[nn.Module, type]], trainable: list[nn.Parameter]) -> None:
    if any("forward" in module.__dict__ for module, _ in undo):
        raise UserError(
            "this model has hooks on its forward methods, as accelerate puts there: remove them before detach()"
        )
    while undo:
        module, kind = undo.pop()
        module.__class__ = kind
        site = module.__dict__.pop("attngraph_site")
        if site.listen in site.layer.listeners:
            site.layer.listeners.remove(site.listen)
        if hasattr(module, "attngraph_adapter"):
            del module.attngraph_adapter
    handle.remove()
    while trainable:
        trainable.pop().requires_grad_(True)
