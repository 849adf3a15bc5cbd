"""Making a model's attention visible while it runs, and restoring the model.

Models that use transformers' ``AttentionInterface`` are switched to
:func:`attngraph.reading.attend.graph_attention` through their configurations; families that do not use it
(:mod:`attngraph.reading.families`) get attention classes that call the function behind it,
:func:`attngraph.reading.attend.attend`. Both compute the same as the model's eager attention.
With ``fused=True`` a model that is set to SDPA runs SDPA, :func:`attngraph.reading.attend.fused_attention`.

    >>> handle = instrument(model)
    >>> handle.sites["model.layers.0.self_attn"].listeners.append(lambda call: print(call.weight.shape))
    >>> model(input_ids)
    >>> handle.remove()
"""

from __future__ import annotations

import fnmatch
import inspect
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from functools import cache, cached_property
from typing import Any, ClassVar, NamedTuple, cast
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.masking_utils import eager_mask, sdpa_mask

from attngraph.errors import UserError
from attngraph.reading.attend import fused_attention, graph_attention, watch
from attngraph.reading.calls import Site
from attngraph.reading.families import OF_IMAGES, hook_of, is_stand_in, refusal_of, stand_in
from attngraph.reading.origins import Origins
from attngraph.reading.outputs import find_output
from attngraph.reading.state import ATTRIBUTE, LayerState, ModelState, arguments, find_state, state_of
from attngraph.reading.watch import Watch

SOURCES = """
    encoder_hidden_states encoder_states key_value_states cross_attention_states context memory inputs key
    keys k kv
""".split()
"""Arguments of attention modules that hold the states to attend to, unless these are the queries' own."""

BESIDES = re.compile("mask|bias|pos|rotary|rope|freqs|cos|sin")
"""In names of arguments that hold no states."""

FUSED = ("scaled_dot_product_attention", "multi_head_attention_forward")
"""PyTorch's own functions that compute a softmax of scores."""
OTHERS = ("Output", "Projection", "DecoderLayer", "AttentionResidual")
"""How names of classes end that are only parts of attention, hold some, or attend to a word's own earlier
states."""

BATCHING = "init_continuous_batching"
"""The method of models from which each way to transformers' continuous batching begins, ``generate_batch``
among them."""


class _Name(str):
    """The name under which an attention function is registered. It equals the name of the function behind it
    too: models ask for that where they prepare what attention needs."""

    like: str

    def __new__(cls, name: str, like: str) -> _Name:
        made = super().__new__(cls, name)
        made.like = like
        return made

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return _Name, (str(self), self.like)

    def __eq__(self, other) -> bool:
        return str.__eq__(self, other) is True or self.like == other

    def __ne__(self, other) -> bool:
        return not self == other

    def __hash__(self) -> int:  # in Python, which torch.compile can trace
        return hash(str(self))


NAME, FUSED_NAME = _Name("attngraph", "eager"), _Name("attngraph-fused", "sdpa")
for name, function, mask in ((NAME, graph_attention, eager_mask), (FUSED_NAME, fused_attention, sdpa_mask)):
    AttentionInterface.register(str(name), function)
    AttentionMaskInterface.register(str(name), mask)


class Instrument:
    """A handle on an instrumented model. Several may be held at once, on a model and on its parts; what none
    of them holds any more is as it was before.

    Attributes:
        model: the model.
        fused: whether a model that is set to SDPA may run it.
        sites: ``{name: site}``, in the order of the model's modules.
    """

    def __init__(self, model: nn.Module, fused: bool = False):
        self.model, self.fused = model, fused
        self.sites: dict[str, Site] = {}
        self.changes: Changes | None = None

    def remove(self) -> None:
        """Let go. A second time does nothing."""
        if self.changes is not None:
            self.changes.release(self)
            self.changes = None


class ChangedConfig(NamedTuple):
    """A configuration whose attention implementation was changed, and which it was before."""

    config: PretrainedConfig
    implementation: str | None


class ChangedModule(NamedTuple):
    """A module that was changed: its class before, and the handles of its hooks."""

    module: nn.Module
    kind: type[nn.Module]
    hooks: list


class Changes:
    """State shared by the handles on one model and its parts.

    Attributes:
        handles: the handles.
        model: state shared by the calls of the model's modules.
        configs: changed configurations.
        modules: changed modules.
    """

    alive: ClassVar[WeakSet[Changes]] = WeakSet()

    def __init__(self):
        self.alive.add(self)
        self.handles: list[Instrument] = []
        self.model = ModelState()
        self.configs: list[ChangedConfig] = []
        self.modules: list[ChangedModule] = []
        self._beside: dict[nn.Module, _Beside] = {}

    def _forget(self) -> None:
        """Discard cached facts about the models of the handles, which have changed."""
        self._beside.clear()
        vars(self).pop("generates", None)

    @cached_property
    def generates(self) -> bool:
        """Whether the model, or a part that a handle was made for, generates text."""
        models = [handle.model for handle in self.handles]
        return any(isinstance(model, PreTrainedModel) and model.can_generate() for model in models)

    def take(self, handle: Instrument) -> None:
        """Change what a handle's model needs changed, and fill in its sites."""
        self.handles.append(handle)
        handle.changes = self
        for config in _configs(handle.model):
            self._take_config(config)
        for name, module, parent in _attention_modules(handle.model):
            handle.sites[name] = self._take_attention(handle.model, name, module, parent)
        inner_models = {state_of(site.module).inner_model for site in handle.sites.values()}
        known = {entry.module for entry in self.modules}
        for module in handle.model.modules():
            note, batches, hooks = hook_of(type(module)), hasattr(type(module), BATCHING), []
            if module in known:
                continue
            if module in inner_models:
                hooks.append(module.register_forward_pre_hook(_begin))
            if note is not None:
                hooks.append(module.register_forward_pre_hook(note, with_kwargs=True))
            if batches:
                setattr(module, BATCHING, _refuse_batching)
            if hooks or batches:
                self.modules.append(ChangedModule(module, type(module), hooks))
        self._forget()

    def _take_config(self, config: PretrainedConfig) -> None:
        if not any(config is entry.config for entry in self.configs):
            before = [entry for changes in self.alive for entry in changes.configs if entry.config is config]
            implementation = before[0].implementation if before else config._attn_implementation_internal
            self.configs.append(ChangedConfig(config, implementation))
        self._name(config)

    def _name(self, config: PretrainedConfig) -> None:
        """Name the attention that the holders of a configuration need."""
        implementation = next(entry.implementation for entry in self.configs if entry.config is config)
        handles = [handle for changes in self.alive for handle in changes.handles]
        fused = implementation == "sdpa" and any(handle.fused for handle in handles)
        if fused:
            holders = [x for x in handles if any(config is other for other in _configs(x.model))]
            fused = all(handle.fused for handle in holders)
        config._attn_implementation_internal = FUSED_NAME if fused else NAME

    def _take_attention(
        self, model: nn.Module, name: str, module: nn.Module, parent: nn.Module | None
    ) -> Site:
        output = find_output(module, parent)
        output_name, holder = None, None
        if output is not None:
            path = name.split(".")
            output_name = ".".join([*(path if "." not in output[0] else path[:-1]), output[0]])
            holder = module if "." not in output[0] else getattr(parent, "output", None)
        site = Site(name, module, None if output is None else output[1], output_name, holder, [])
        state = find_state(module)
        if state is None:
            state = LayerState(site, self, _inner_model(model, name), _is_watched(type(module)))
            setattr(module, ATTRIBUTE, state)
            hooks = [
                module.register_forward_pre_hook(_before, with_kwargs=True),
                module.register_forward_hook(_after, always_call=True),
            ]
            kind = type(module)
            note = hook_of(kind)
            if note is not None:
                hooks.append(module.register_forward_pre_hook(note, with_kwargs=True))
            self.modules.append(ChangedModule(module, kind, hooks))
            other = stand_in(kind)
            if other is not None:
                module.__class__ = other
            if module._compiled_call_impl is None:  # torch.compile: one graph break here, not many
                module._compiled_call_impl = torch.compiler.disable(_clean(module))
        site.listeners = state.listeners
        return site

    def has_unread_beside(self, module: nn.Module, inner_model: nn.Module) -> bool:
        """Whether the stack of layers that holds a module of ``inner_model`` holds attention that is not
        read: it may order the module's queries in time."""
        if module not in self._beside:
            self._beside[module] = _beside(module, inner_model)
        found = self._beside[module]
        return found.unread or any(state.given.unordered for state in found.others)

    def absorb(self, other: Changes) -> None:
        """Merge the changes of another: two parts of a model were instrumented before the whole."""
        if other is self:
            return
        for handle in other.handles:
            handle.changes = self
        for entry in other.modules:
            state = find_state(entry.module)
            if state is not None:
                state.changes = self
        known = [entry.config for entry in self.configs]
        self.handles += other.handles
        self.configs += [entry for entry in other.configs if not any(entry.config is x for x in known)]
        self.modules += other.modules
        other.handles, other.configs, other.modules = [], [], []
        self._forget()

    def release(self, handle: Instrument) -> None:
        """Undo the changes that no other handle needs."""
        self.handles.remove(handle)
        self._forget()
        configs = [config for other in self.handles for config in _configs(other.model)]
        for entry in list(self.configs):
            if any(entry.config is config for config in configs):
                self._name(entry.config)
            else:
                self.configs.remove(entry)
                if not any(
                    entry.config is other.config for changes in self.alive for other in changes.configs
                ):
                    entry.config._attn_implementation_internal = entry.implementation
        held = {module for other in self.handles for module in other.model.modules()}
        for changed in [changed for changed in self.modules if changed.module not in held]:
            for hook in changed.hooks:
                hook.remove()
            changed.module.__class__ = changed.kind
            changed.module.__dict__.pop(BATCHING, None)
            state = changed.module.__dict__.pop(ATTRIBUTE, None)
            if state is not None:
                state.projections.remove()
                if hasattr(changed.module._compiled_call_impl, "_torchdynamo_disable"):
                    del changed.module._compiled_call_impl
        self.modules = [changed for changed in self.modules if changed.module in held]


class _Beside(NamedTuple):
    """Other attention in the stack of layers around an attention module: whether any of it cannot be read and
    may order the module's queries in time, and the states of the rest."""

    unread: bool
    others: list[LayerState]


def _beside(module: nn.Module, inner_model: nn.Module) -> _Beside:
    names = {part: name for name, part in inner_model.named_modules()}
    stack = re.split(r"\d", names[module])[0] if re.search(r"\d", names[module]) else ""
    models = tuple(f"{names[x]}." for x in names if isinstance(x, PreTrainedModel) and names[x])
    beside = [x for x in names if names[x].startswith(stack) and not names[x].startswith(models)]
    states = {x: state for x in beside if (state := find_state(x)) is not None}
    unread = set(unread_attention(inner_model, states).values()).intersection(beside)
    others = [state for x, state in states.items() if x is not module]
    return _Beside(any(refusal_of(type(x)) not in OF_IMAGES for x in unread), others)


def instrument(model: nn.Module, fused: bool = False) -> Instrument:
    """Make a model's attention layers visible; nothing else about its output changes. The model may run in
    several threads at once, and listeners hear the calls of all of them; make and remove handles in one.

    Args:
        model: the model.
        fused: let the model run SDPA if it is set to that and no other handle needs its weights. Listeners
            then receive calls (:attr:`attngraph.reading.calls.Call.fused`) whose weights are computed by the
            formula when they are read.

    Raises:
        UserError: the model has no attention layer that can be read, or accelerate has hooks on one of a
            family that does not use transformers' ``AttentionInterface``; or ``fused``, and it is set to
            another attention than SDPA or eager.
    """
    sites = list(_attention_modules(model))
    if not sites:
        unread = why_unread(dict(attention_like(model)))
        raise UserError(
            f"{type(model).__name__} has no attention layer that can be read{': ' if unread else ''}{unread}"
        )
    for name, module, _ in sites:
        if "forward" in module.__dict__ and stand_in(type(module)) is not None:
            raise UserError(
                f"{name} has hooks on its forward method, as accelerate's dispatch_model and device_map "
                "add them, and its attention would not be seen: remove the hooks, or add them afterwards"
            )
    for config in _configs(model) if fused else ():
        implementation = config._attn_implementation_internal
        if not any(implementation == known for known in (None, "eager", "sdpa")):
            raise UserError(
                f"the model is set to {implementation}, whose graphs can't be streamed: "
                'model.set_attn_implementation("sdpa"), or read it without stream'
            )
    several = [
        cast(Changes, state.changes) for _, module, _ in sites if (state := find_state(module)) is not None
    ]
    changes = several[0] if several else Changes()
    for other in several:
        changes.absorb(other)
    handle = Instrument(model, fused)
    changes.take(handle)
    return handle


def _refuse_batching(*args: Any, **options: Any) -> None:
    """Replaces :data:`BATCHING`, which would switch the model to another attention function and put an error
    of its thread into each answer."""
    raise UserError(
        "generate_batch (continuous batching) uses another attention function, which cannot be read and "
        "bypasses graph adapters: use generate, or disable the adapters first"
    )


def why_unread(modules: Mapping[str, nn.Module]) -> str:
    """Which layers cannot be read, by name and class, and why."""
    reasons: dict[str, list[str]] = {}
    for kind in dict.fromkeys(type(module) for module in modules.values()):
        names = ", ".join(wildcards([name for name, module in modules.items() if type(module) is kind]))
        reasons.setdefault(reason_unread(kind), []).append(f"{names} ({kind.__name__})")
    return "; ".join(f"{', '.join(layers)}: {reason}" for reason, layers in reasons.items())


def reason_unread(kind: type[nn.Module]) -> str:
    """Why an attention class is not read."""
    return refusal_of(kind) or "neither uses transformers' AttentionInterface nor computed a softmax"


def unread_attention(model: nn.Module, read: Iterable[nn.Module]) -> dict[str, nn.Module]:
    """Modules that are called attention, and are neither among those that are ``read``, nor parts of one, nor
    hold one."""
    several = set(read)
    inside = {part for module in several for part in module.modules()}
    return {
        name: module
        for name, module in attention_like(model)
        if module not in inside and several.isdisjoint(module.modules())
    }


def wildcards(names: Collection[str], others: Iterable[str] = ()) -> list[str]:
    """Few patterns that match all of ``names`` and none of ``others``, with ``*`` for numbers where that
    takes several together."""
    patterns: dict[str, None] = {}
    for name in names:
        wide = ".".join("*" if part.isdigit() else part for part in name.split("."))
        alone = len(fnmatch.filter(names, wide)) == 1
        patterns[name if alone or any(fnmatch.filter(others, wide)) else wide] = None
    return list(patterns)


def attention_like(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules whose class is called attention and that hold no other such module, whether they can be read or
    not."""

    for name, module in model.named_modules():
        if _is_innermost(module):
            yield name, module


def _is_innermost(module: nn.Module) -> bool:
    """Whether a module is called attention and holds no other such module."""
    return _is_called_attention(module) and not any(
        _is_called_attention(part) for part in module.modules() if part is not module
    )


def _is_called_attention(module: nn.Module) -> bool:
    name = type(module).__name__
    return "Attention" in name and not name.endswith(OTHERS)


def _attention_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module | None]]:
    """Name, module and parent of every attention layer that can be read."""
    for name, module in model.named_modules():
        kind = type(module)
        if is_stand_in(kind) or stand_in(kind) is not None:
            read = True
        elif refusal_of(kind) is not None or kind.__name__.endswith(OTHERS):
            read = False
        else:
            read = uses_interface(cast(Hashable, kind)) or (_is_watched(kind) and _is_innermost(module))
        if read:
            yield name, module, model.get_submodule(name.rpartition(".")[0]) if name else None


def _is_watched(kind: type[nn.Module]) -> bool:
    """Whether modules of a class are read by watching them run: their attention is neither transformers'
    interface nor in a file of :mod:`attngraph.reading.families`, and computes a softmax."""
    ours = is_stand_in(kind) or stand_in(kind) is not None
    return not (ours or uses_interface(cast(Hashable, kind))) and _has_softmax(cast(Hashable, kind))


@cache
def _has_softmax(kind: Hashable) -> bool:
    """Whether a class's own methods, or functions of their file that they call, call a softmax or PyTorch's
    fused attention."""
    assert isinstance(kind, type)
    own = [base for base in kind.__mro__ if base is not nn.Module and issubclass(base, nn.Module)]
    methods = [inspect.unwrap(f) for base in own for f in vars(base).values() if inspect.isfunction(f)]
    names = {name for f in methods for name in f.__code__.co_names}
    called = [f.__globals__.get(name) for f in methods for name in f.__code__.co_names]
    helpers = [inspect.unwrap(f) for f in called if inspect.isfunction(f)]
    names |= {name for f in helpers for name in f.__code__.co_names}
    return any("softmax" in name.lower() or name in FUSED for name in names)


@cache
def uses_interface(kind: Hashable) -> bool:
    """Whether a class looks its attention function up in transformers' ``AttentionInterface``."""
    assert isinstance(kind, type)
    if issubclass(kind, PreTrainedModel):
        return False
    functions = [f for base in kind.__mro__ for f in vars(base).values() if inspect.isfunction(f)]
    return any("ALL_ATTENTION_FUNCTIONS" in inspect.unwrap(f).__code__.co_names for f in functions)


def _inner_model(model: nn.Module, name: str) -> nn.Module:
    """The innermost transformers model that holds a module."""
    while name:
        name = name.rpartition(".")[0]
        part = model.get_submodule(name)
        if isinstance(part, PreTrainedModel):
            return part
    return model


def _configs(model: nn.Module) -> list[PretrainedConfig]:
    """All configurations that the model and its parts use."""
    configs: list[PretrainedConfig] = []

    def add(config: object) -> None:
        if isinstance(config, PretrainedConfig) and not any(config is other for other in configs):
            configs.append(config)
            for part in vars(config).values():
                add(part)

    for module in model.modules():
        add(module.__dict__.get("config"))
    return configs


def _begin(inner_model: nn.Module, args: tuple) -> None:
    """Before an innermost transformers model runs: discard the results of its last forward pass."""
    state = next((state for part in inner_model.modules() if (state := find_state(part)) is not None), None)
    if state is not None:  # a part may have been let go of
        state.model.begin(inner_model)


def _before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
    """Before an attention module runs: note the states that it attends to, and its cache."""
    given = arguments(module, args, kwargs)
    state = state_of(module)
    names = _roles(tuple(given))
    if "hidden_states" in given:
        own = given["hidden_states"]
    else:
        own = next((x for x in given.values() if isinstance(x, Tensor)), None)
    sources = (given[name] for name in names.sources)
    now = state.given
    named = [x for x in sources if isinstance(x, Tensor)]
    states = [x for x in (given[name] for name in names.states) if _holds_states(x)]
    now.source = next((x for x in named if x is not own), None)
    now.states = states[0].shape[1] if len(states) == 1 else None
    now.unordered = False
    now.cache = next((value for value in given.values() if isinstance(value, Cache)), None)
    state.projections.begin(module, given)
    wanted = given.get("output_attentions")
    if wanted is None:
        wanted = getattr(getattr(module, "config", None), "output_attentions", False)
    now.output_attentions = bool(wanted)
    if not named and len(states) > 1 and not type(module).__module__.startswith("transformers."):
        now.origins = Origins(states)
        now.origins.__enter__()
    if state.watched:
        now.watch = watch(module, given)
        now.watch.__enter__()


def _clean(module: nn.Module) -> Callable[..., Any]:
    """Call a module and end its watch in any case: after an interrupt (Ctrl-C) no hook runs."""

    def call(*args: Any, **kwargs: Any) -> Any:
        state = find_state(module)  # a listener may remove the handle
        try:
            return module._call_impl(*args, **kwargs)
        finally:
            if state is not None:
                _end_watch(state)

    return call


def _end_watch(state: LayerState) -> Watch | None:
    """End what follows a module while it runs. Returns the watch on it, if there is one."""
    given = state.given
    watched, origins, given.watch, given.origins = given.watch, given.origins, None, None
    for mode in (watched, origins):
        if mode is not None:
            mode.__exit__(None, None, None)
    return watched


class _Roles(NamedTuple):
    """Which arguments of a module may hold states to attend to, in the order of :data:`SOURCES`, and which
    any states."""

    sources: tuple[str, ...]
    states: tuple[str, ...]


@cache
def _roles(names: tuple[str, ...]) -> _Roles:
    """Roles of arguments, by their names."""
    states = tuple(name for name in names if not BESIDES.search(name))
    return _Roles(tuple(name for name in SOURCES if name in names), states)


def _holds_states(x: object) -> bool:
    """Whether an argument of a module is a tensor of states, ``(b, n, width)``."""
    return isinstance(x, Tensor) and x.dim() == 3 and x.is_floating_point()


def _after(module: nn.Module, args: tuple, output: object) -> None:
    """After an attention module ran: release what :func:`_before` noted."""
    state = find_state(module)
    if state is None:
        return
    given, watched = state.given, _end_watch(state)
    given.source = given.cache = None
    state.projections.end()
    missed = None if watched is None else watched.unread or (None if watched.calls else watched.trouble)
    given.unordered = given.unordered or missed is not None
    if missed is not None and state.listeners and output is not None:
        raise UserError(
            f"the attention of {state.site.name} ({type(module).__name__}) cannot be read: {missed}"
            "; exclude the layer (layers=...; for adapters exclude_modules=...)"
        )
