"""The modules that PEFT puts in the place of output projections."""

from __future__ import annotations

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from adapters.adapter import GraphAdapter, move
from adapters.bottleneck import Bottleneck
from adapters.config import AdapterConfig
from adapters.scheme import Scheme
from attngraph.errors import UserError
from attngraph.reading.calls import Call, merge_heads
from attngraph.reading.outputs import widths

ADAPTERS = "gnn_adapter"  # in every layer, the adapters by name


class GraphLayer(nn.Module, BaseTunerLayer):
    """A frozen output projection with adapters, by name; at most one of them is active.

    Args:
        base_layer: the projection.
        name: its name in the model.
    """

    adapter_layer_names = (ADAPTERS,)

    def __init__(self, base_layer: nn.Module, name: str):
        super().__init__()
        self.base_layer = base_layer
        self.training = base_layer.training
        self.name = name
        self.gnn_adapter = nn.ModuleDict()
        self.in_features, self.out_features = widths(self.get_base_layer())

    def add(self, adapter_name: str, settings: AdapterConfig, scheme: Scheme, neutral: bool) -> None:
        """A new adapter; it does nothing at first if ``neutral`` (and the join is not ``replace``)."""
        adapter = self.make(settings, scheme)
        if not neutral:
            for name, parameter in adapter.named_parameters():
                if name.endswith("share"):
                    nn.init.constant_(parameter, 0.5)
                elif not name.startswith("scheme."):
                    nn.init.normal_(parameter, std=0.3)
        move(adapter, self, self.get_base_layer().weight)
        self.gnn_adapter[adapter_name] = adapter

    def make(self, settings: AdapterConfig, scheme: Scheme) -> nn.Module:
        raise NotImplementedError

    @property
    def active(self) -> nn.Module | None:
        """The adapter that runs now."""
        if self.disable_adapters:
            return None
        names = [name for name in self.active_adapters if name in self.gnn_adapter]
        return self.gnn_adapter[names[0]] if names else None

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        ours = [name for name in names if name in self.gnn_adapter]
        if len(ours) > 1:
            raise UserError(
                f"{' and '.join(ours)} can't run together: choose one graph adapter with set_adapter"
            )
        super().set_adapter(adapter_names, inference_mode)

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        """Called by PEFT after loading; the numbers that were loaded keep their precision."""
        if adapter_name in self.gnn_adapter:
            self.gnn_adapter[adapter_name].to(device or self.get_base_layer().weight.device)


def find_layer(module: nn.Module) -> GraphLayer | None:
    """The layer with adapters in what PEFT has made of a projection."""
    while isinstance(module, BaseTunerLayer):
        if isinstance(module, GraphLayer):
            return module
        module = module.base_layer
    return None


class FeedForwardLayer(GraphLayer):
    r"""The output projection of a feed-forward block with the vanilla adapter :math:`x + σ(x W_{down}) W_{up}`."""

    def make(self, settings: AdapterConfig, scheme: Scheme) -> Bottleneck:
        return Bottleneck(self.out_features, max(1, self.out_features // settings.reduction))

    def forward(self, hidden_states: Tensor) -> Tensor:
        x, adapter = self.base_layer(hidden_states), self.active
        if adapter is None:
            return x
        wide = x.to(adapter.down.weight.dtype)
        return (wide + adapter(wide)).to(x.dtype)


class OutputLayer(GraphLayer):
    r"""The output projection :math:`W_o` of an attention layer; joins what the scheme makes of the layer's graph.

    The attention calls :meth:`listen`, then the model calls :meth:`forward` with the plain context. The metric is that
    of the frozen :math:`W_o`. Where LoRA is on the same projection, its update of the plain context is added to what
    is joined here.

    Args:
        base_layer, name: as for :class:`GraphLayer`.
    """

    def __init__(self, base_layer: nn.Module, name: str):
        super().__init__(base_layer, name)
        self._heard: tuple[Tensor | None, Tensor] | None = None
        self._checked = False

    def make(self, settings: AdapterConfig, scheme: Scheme) -> GraphAdapter:
        return GraphAdapter(settings, self.out_features, scheme)

    def listen(self, call: Call) -> None:
        """Leave the aggregated context of an attention call, ``(b, n, h·d)``, for :meth:`forward`; the first time also
        the plain one, to see that it is what the projection gets."""
        adapter = self.active
        if adapter is not None:
            aggregated = adapter.aggregate(call)
            self._heard = None if self._checked else merge_heads(call.context), aggregated

    def forward(self, hidden_states: Tensor) -> Tensor:
        adapter, heard, self._heard = self.active, self._heard, None
        if adapter is None:
            return self.base_layer(hidden_states)
        if heard is None:
            raise UserError(
                f"the attention before {self.name} ran unseen: its implementation was changed after the "
                "adapters were put in; set it before"
            )
        plain, aggregated = heard
        if plain is not None:
            if plain.shape != hidden_states.shape or not ((plain == hidden_states) | plain.isnan()).all():
                raise UserError(
                    f"the model changes what attention gives before {self.name} takes it (a gate or a "
                    "norm), so messages can't take its place: leave this layer out with exclude=[...]"
                )
            self._checked = True
        dtype = adapter.join.bottleneck.down.weight.dtype
        aggregated = aggregated.to(hidden_states.dtype)
        out = adapter.join(hidden_states, aggregated, lambda x: self.base_layer(x).to(dtype), adapter.scheme)
        return out.to(hidden_states.dtype)
