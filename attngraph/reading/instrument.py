"""Making a model's attention visible while it runs, and its way back.

Models that use transformers' ``AttentionInterface`` are switched to :func:`attngraph.reading.calls.graph_attention` through
their configurations; families that do not use it (``attngraph.reading.families``) get attention classes that call what is
behind it, :func:`attngraph.reading.calls.attend`. Both compute what the model's eager attention computes.

    >>> handle = instrument(model)
    >>> handle.sites["model.layers.0.self_attn"].listeners.append(lambda call: print(call.weight.shape))
    >>> model(input_ids)
    >>> handle.remove()
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import ClassVar
from weakref import WeakSet

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.masking_utils import eager_mask

from attngraph.errors import UserError
from attngraph.reading.calls import Call, Flow, Hub, arguments, graph_attention
from attngraph.reading.families import CLASSES, HOOKS
from attngraph.reading.outputs import Metric, find_output, widths

SOURCES = ("encoder_hidden_states", "key_value_states", "cross_attention_states", "context")


class _Name(str):
    """The name under which the attention function is registered. It equals "eager" too: models ask for that name where
    they prepare what eager attention needs, and the function behind this one needs the same."""

    def __eq__(self, other) -> bool:
        return str.__eq__(self, other) or other == "eager"

    def __ne__(self, other) -> bool:
        return not self == other

    __hash__ = str.__hash__


NAME = _Name("attngraph")
AttentionInterface.register(str(NAME), graph_attention)
AttentionMaskInterface.register(str(NAME), eager_mask)


@dataclass(eq=False)
class Site:
    """One attention layer of a model.

    Attributes:
        name: the attention module's path in the model.
        module: the attention module.
        output: :math:`W_o`, an ``nn.Linear`` or transformers' ``Conv1D``; None where none was found.
        output_name: its path in the model.
        listeners: called with each :class:`attngraph.reading.calls.Call` of the module.
    """

    name: str
    module: nn.Module
    output: nn.Module | None
    output_name: str | None
    listeners: list[Callable[[Call], None]]

    def __post_init__(self):
        self._metric = None if self.output is None else Metric(self.output)

    def metric(self, heads: int, features: int) -> Tensor | None:
        """``(h, d, d)``; see :class:`attngraph.reading.outputs.Metric`. None without an output projection of that width."""
        if self._metric is None or widths(self.output)[0] != heads * features:
            return None
        return self._metric(heads)


class Instrument:
    """A hold on an instrumented model. Several may be held at once, on a model and on its parts; what none of them
    holds any more is as it was before.

    Attributes:
        sites: ``{name: site}``, in the order of the model's modules.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.sites: dict[str, Site] = {}
        self._shared: _Shared | None = None

    def remove(self) -> None:
        """Let go. A second time does nothing."""
        if self._shared is not None:
            self._shared.release(self)
            self._shared = None


class _Shared:
    """What handles on one model share: who holds what, and how it was before."""

    alive: ClassVar[WeakSet[_Shared]] = WeakSet()

    def __init__(self):
        self.alive.add(self)
        self.handles: list[Instrument] = []
        self.flow = Flow()
        self.configs: list[tuple[PretrainedConfig, str | None]] = []
        self.modules: list[tuple[nn.Module, type, list]] = []  # module, class before, hooks

    def hold(self, handle: Instrument) -> None:
        for config in _configs(handle.model):
            if not any(config is other for other, _ in self.configs):
                before = [name for shared in self.alive for other, name in shared.configs if other is config]
                self.configs.append((config, before[0] if before else config._attn_implementation_internal))
                config._attn_implementation_internal = NAME
        for name, module, parent in _attention_modules(handle.model):
            found = find_output(module, parent)
            path = name.split(".")
            if found is None:
                output_name = output = None
            else:
                output_name = ".".join([*(path if "." not in found[0] else path[:-1]), found[0]])
                output = found[1]
            hub = module.__dict__.get("attngraph")
            site = Site(name, module, output, output_name, [] if hub is None else hub.listeners)
            handle.sites[name] = site
            if hub is None:
                hub = module.attngraph = Hub(site, self, _home(handle.model, name))
                site.listeners = hub.listeners
                kind = type(module)
                hooks = [
                    module.register_forward_pre_hook(_before, with_kwargs=True),
                    module.register_forward_hook(_after, always_call=True),
                ]
                self.modules.append((module, kind, hooks))
                if kind in CLASSES:
                    module.__class__ = CLASSES[kind]
        held = [module for module, _, _ in self.modules]
        for module in handle.model.modules():
            if type(module) in HOOKS and not any(module is other for other in held):
                hooks = [module.register_forward_pre_hook(HOOKS[type(module)], with_kwargs=True)]
                self.modules.append((module, type(module), hooks))
        self.handles.append(handle)
        handle._shared = self

    def absorb(self, other: _Shared) -> None:
        """Take over another one's: two parts of a model were instrumented before the whole."""
        if other is self:
            return
        for handle in other.handles:
            handle._shared = self
        for module, _, _ in other.modules:
            if "attngraph" in module.__dict__:
                module.attngraph.shared = self
        self.handles += other.handles
        self.configs += [
            entry for entry in other.configs if not any(entry[0] is config for config, _ in self.configs)
        ]
        self.modules += other.modules
        other.handles, other.configs, other.modules = [], [], []

    def release(self, handle: Instrument) -> None:
        self.handles.remove(handle)
        configs = [config for other in self.handles for config in _configs(other.model)]
        modules = {module for other in self.handles for module in other.model.modules()}
        for entry in list(self.configs):
            if not any(entry[0] is config for config in configs):
                self.configs.remove(entry)
                if not any(entry[0] is other for shared in self.alive for other, _ in shared.configs):
                    entry[0]._attn_implementation_internal = entry[1]
        for entry in list(self.modules):
            module, kind, hooks = entry
            if module not in modules:
                for hook in hooks:
                    hook.remove()
                module.__class__ = kind
                hub = module.__dict__.pop("attngraph", None)
                if hub is not None:
                    hub.projections.remove()
                self.modules.remove(entry)


def instrument(model: nn.Module) -> Instrument:
    """Make a model's attention layers visible; nothing else about its output changes. Use it in one thread at a time.

    Raises:
        UserError: the model has no attention layer that can be read, or accelerate has hooks on one of a family that
            does not use transformers' ``AttentionInterface``.
    """
    sites = list(_attention_modules(model))
    if not sites:
        seen = sorted({type(module).__name__ for _, module in attention_like(model)})
        raise UserError(
            f"{type(model).__name__} has no attention layer that can be read"
            + (
                f": {', '.join(seen)} use neither transformers' AttentionInterface nor one of the families "
                "described in attngraph.reading.families"
                if seen
                else ""
            )
        )
    for name, module, _ in sites:
        if "forward" in module.__dict__ and type(module) in CLASSES:
            raise UserError(
                f"{name} has hooks on its forward method, as accelerate's dispatch_model and device_map "
                "put there, and would not be seen: remove the hooks, or put them on afterwards"
            )
    hubs = [module.attngraph for _, module, _ in sites if "attngraph" in module.__dict__]
    shared = hubs[0].shared if hubs else _Shared()
    for hub in hubs:
        shared.absorb(hub.shared)
    handle = Instrument(model)
    shared.hold(handle)
    return handle


def attention_like(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules whose class is called attention and that hold no other such module, whether they can be read or not."""

    def named(module: nn.Module) -> bool:
        name = type(module).__name__
        return "Attention" in name and not name.endswith("Output")

    for name, module in model.named_modules():
        if named(module) and not any(named(part) for part in module.modules() if part is not module):
            yield name, module


def _attention_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module | None]]:
    """Name, module and parent of every attention layer that can be read."""
    swapped = tuple(CLASSES.values())
    for name, module in model.named_modules():
        if type(module) in CLASSES or isinstance(module, swapped) or _uses_interface(type(module)):
            yield name, module, model.get_submodule(name.rpartition(".")[0]) if name else None


@cache
def _uses_interface(kind: type) -> bool:
    """Whether a class looks its attention function up in transformers' ``AttentionInterface``."""
    if issubclass(kind, PreTrainedModel):
        return False
    methods = (
        inspect.unwrap(f) for base in kind.__mro__ for f in vars(base).values() if inspect.isfunction(f)
    )
    return any("ALL_ATTENTION_FUNCTIONS" in f.__code__.co_names for f in methods)


def _home(model: nn.Module, name: str) -> nn.Module:
    """The innermost transformers model that holds a module."""
    while name:
        name = name.rpartition(".")[0]
        part = model.get_submodule(name)
        if isinstance(part, PreTrainedModel):
            return part
    return model


def _configs(model: nn.Module) -> list[PretrainedConfig]:
    """Every configuration that the model and its parts look at."""
    found: list[PretrainedConfig] = []

    def add(config) -> None:
        if isinstance(config, PretrainedConfig) and not any(config is other for other in found):
            found.append(config)
            for part in vars(config).values():
                add(part)

    for module in model.modules():
        add(module.__dict__.get("config"))
    return found


def _before(module: nn.Module, args: tuple, kwargs: dict) -> None:
    """Before an attention module runs: what is it given to attend to, and which cache?"""
    given = arguments(module, args, kwargs)
    hub: Hub = module.attngraph
    sources = [given[name] for name in SOURCES if isinstance(given.get(name), Tensor)]
    hub.source = next((source for source in sources if source is not given.get("hidden_states")), None)
    hub.cache = next((value for value in given.values() if isinstance(value, Cache)), None)
    hub.projections.begin(module, given)
    told = given.get("output_attentions")
    hub.wanted = bool(
        getattr(getattr(module, "config", None), "output_attentions", False) if told is None else told
    )


def _after(module: nn.Module, args: tuple, output) -> None:
    hub = module.__dict__.get("attngraph")
    if hub is not None:
        hub.source = hub.cache = None
        hub.projections.end()
