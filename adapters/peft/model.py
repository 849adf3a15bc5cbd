"""The PEFT tuner: puts graph adapters into a model by name, switches and removes them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from attngraph.adapters.adapter import GraphAdapter
from attngraph.adapters.config import PEFT_TYPE, GraphAdapterConfig
from attngraph.adapters.peft.layer import (
    ADAPTERS,
    BASE,
    NO_GRADIENT,
    NOT_MERGED,
    FeedForwardLayer,
    GraphLayer,
    MixedBatch,
    OutputLayer,
    find_layer,
)
from attngraph.adapters.peft.loading import check_saved_weights
from attngraph.adapters.peft.other_methods import find_base, method_of, switches
from attngraph.adapters.peft.places import Place, by_name, find_places
from attngraph.adapters.scheme import Scheme
from attngraph.errors import UserError
from attngraph.reading.families import is_stand_in
from attngraph.reading.instrument import Instrument, Site, instrument

BEAMS = ("num_beams", "num_return_sequences")  # of generate, which repeats each example as often
PREFIX = "base_model.model."  # of the base model's names in a PeftModel
# attributes of the base model, which several PeftModels may wrap
TRAINED_BEFORE = "trained_before_graph_adapters"  # names that unload() thaws
INSTRUMENT = "instrument_of_graph_adapters"


class GraphAdapterModel(BaseTuner):
    """Graph adapters in a Hugging Face transformer.

    ``peft.get_peft_model`` makes it from a :class:`~attngraph.adapters.GraphAdapterConfig`. A model that
    already has LoRA (or another PEFT method) keeps it: both are then trained, saved, switched off and removed
    together, each under its own adapter name. An adapted model may run in several threads at once, as long as
    none of them adds, switches or removes adapters. It does not run under ``nn.DataParallel``, which copies
    the model; use one process per device.

    Args:
        model: the base model, or a ``PeftModel``, whose inner model is used.
        peft_config: the configuration, or ``{adapter name: configuration}``.
        adapter_name: the adapter's name.

    Raises:
        UserError: no attention layer is found, or the adapter name is taken.

    A second graph adapter in the same model, under another name, becomes the active one: only one runs at a
    time. Both keep their weights, and ``set_adapter`` selects one.

    :meth:`unload` returns the base model in its state before the first graph adapter: its modules, its
    attention function, and which of its parameters require gradients. With LoRA below, only LoRA's parameters
    do, and those that LoRA froze remain frozen, as after LoRA's ``unload``.
    """

    prefix = "gnn_"
    tuner_layer_cls = GraphLayer
    target_module_mapping: dict[str, list[str]] = {}

    def __init__(
        self,
        model: nn.Module,
        peft_config: PeftConfig | dict[str, PeftConfig],
        adapter_name: str,
        **options: Any,
    ):
        if isinstance(model, PeftModel):
            model = model.get_base_model()
        check_name(adapter_name)
        taken = dict(getattr(model, "peft_config", None) or {})
        if adapter_name in taken:
            kind = taken[adapter_name].peft_type.value
            raise UserError(
                f"the adapter name {adapter_name!r} is taken by a {kind} adapter in this model: pass "
                "another adapter_name"
            )
        try:
            with warnings.catch_warnings():  # LoRA in the model is not a mistake
                warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
                super().__init__(model, peft_config, adapter_name, **options)
        except BaseException:
            noted: Any = getattr(model, "peft_config", {})
            for name in set(noted) - set(taken):
                del noted[name]
            raise

    # ---- putting adapters in --------------------------------------------------------------------------

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict) -> Any:
        return peft_config

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **options: Any) -> None:
        check_name(adapter_name)
        config = self._graph_config(adapter_name)
        self._check_heads(config)
        own_names = GraphAdapter(config, 1, config.scheme()).state_dict()
        names = [*dict(model.named_parameters()), *own_names]
        if any(adapter_name in name.split(".") for name in names):
            raise UserError(
                f"the adapter name {adapter_name!r} is part of the names of parameters, which PEFT would "
                "treat as parameters of the adapter: choose another name"
            )
        layers = self._graph_layers()
        off = any(layer.disable_adapters for layer in layers)
        if not layers:
            named = model.named_parameters()
            setattr(model, TRAINED_BEFORE, {_plain_name(name) for name, p in named if p.requires_grad})
        put_back, target_modules = switches(model), config.target_modules
        attached = self.instrument is not None
        self._attach()
        try:
            super().inject_adapter(model, adapter_name, *args, **options)
        except BaseException:
            self._take_back(adapter_name)
            put_back()
            if not attached:
                self._release()
            if not layers:
                delattr(model, TRAINED_BEFORE)
            raise
        finally:
            config.target_modules = target_modules  # which PEFT rewrites where it says "all-linear"
            if off or not self._listens():  # injection failed, or adapters follow feed-forward blocks only
                self._release()
        for layer in self._graph_layers():
            layer._disable_adapters = layer._disable_adapters or off  # those that are new
            if layer.name in self._places:
                self._watch(layer, self._places[layer.name])

    def _graph_layers(self) -> list[GraphLayer]:
        return [module for module in self.model.modules() if isinstance(module, GraphLayer)]

    def _watch(self, layer: GraphLayer, place: Place) -> None:
        """Have the smallest module that cannot run without the projection at a place look after its layer."""
        name = place.name.split(".")
        path = name[:-1]
        while place.site is not None and place.site.name.split(".")[: len(path)] != path:
            path = path[:-1]
        while isinstance(self.model.get_submodule(".".join(path)), (nn.ModuleList, nn.ModuleDict)):
            path = path[:-1]  # these never run
        layer.watch(self.model.get_submodule(".".join(path)), ".".join(name[len(path) :]))

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        self._places = find_places(model, self._sites(), peft_config)

    def _check_target_module_exists(self, peft_config: PeftConfig, key: str) -> bool:  # type: ignore[override]
        config: Any = peft_config
        found: Any = key in self._places or by_name(config, key)
        return found and key in self._places  # PEFT looks for its mark of an excluded module

    def _graph_config(self, adapter_name: str) -> GraphAdapterConfig:
        config: Any = self.peft_config[adapter_name]
        return config

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: Any,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if current_key not in self._places:  # PEFT goes by the names in a state dict, where it has one
            raise UserError(
                f"the state dict has an adapter on {current_key}, and the configuration puts none there: "
                "pass the configuration that it was saved with"
            )
        layer = find_layer(target)
        if layer is None:
            while find_base(target) is not None:  # below LoRA, so that the names of its weights stay
                parent, target, target_name = target, find_base(target), "base_layer"
            site = self._places[current_key].site
            if site is None:
                layer = FeedForwardLayer(target, current_key)
            else:
                layer = OutputLayer(target, current_key)
                _add(site, layer)
            self._replace_module(parent, target_name, layer, target)
        layer.add(adapter_name, peft_config, self._scheme(peft_config, adapter_name))

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: Any) -> None:
        """Layers put their adapters on the right device themselves. PEFT's own method needs each projection's
        weight as a tensor, which not every quantised one has."""
        setattr(parent, child_name, new_module)

    def _take_back(self, adapter_name: str) -> None:
        """Remove an adapter, also one whose injection failed half-way, and the layers without adapters."""
        for name, layer in list(self.model.named_modules()):
            if isinstance(layer, GraphLayer):
                if adapter_name in layer.gnn_adapter:
                    del layer.gnn_adapter[adapter_name]
                if not layer.gnn_adapter:
                    layer.unwatch()
                    parent, _, last = name.rpartition(".")
                    setattr(self.model.get_submodule(parent), last, layer.base_layer)
                    for site in self._sites():
                        site.listeners[:] = [
                            x for x in site.listeners if getattr(x, "__self__", None) is not layer
                        ]

    def _scheme(self, config: GraphAdapterConfig, adapter_name: str) -> Scheme:
        """A new scheme, or that of the previous layers if all layers share one."""
        if config.shared:
            for module in self.model.modules():
                if isinstance(module, OutputLayer) and adapter_name in module.gnn_adapter:
                    adapter: Any = module.gnn_adapter[adapter_name]
                    return adapter.scheme
        return config.scheme()

    # ---- switching ------------------------------------------------------------------------------------

    @property
    def instrument(self) -> Instrument | None:
        """The handle on the base model while its attention layers call adapters; None otherwise."""
        return vars(self.model).get(INSTRUMENT)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Select the graph adapter. Modules that other methods train as a whole (``modules_to_save``) keep
        running and learning; PEFT would go back to the original ones."""
        others = [
            (wrapper, wrapper.active_adapter, [(p, p.requires_grad) for p in wrapper.parameters()])
            for wrapper in self._wrappers()
            if wrapper.active_adapters and not set(wrapper.active_adapters) & set(self._graph_names())
        ]
        if adapter_name:
            super().set_adapter(adapter_name, inference_mode)
        else:  # the last one was deleted; PEFT fails where there are modules_to_save
            self.active_adapter = []
            for layer in self._graph_layers():
                layer.set_adapter([])
        for wrapper, names, flags in others:
            if not wrapper.active_adapters:
                wrapper.set_adapter(names)
                for parameter, flag in flags:
                    parameter.requires_grad_(flag)

    def _graph_names(self) -> list[str]:
        """The names of the graph adapters in the model."""
        return [name for name, config in self.peft_config.items() if config.peft_type == PEFT_TYPE]

    def _wrappers(self) -> list[Any]:
        return [module for module in self.model.modules() if isinstance(module, AuxiliaryTrainingWrapper)]

    def _check_heads(self, config: GraphAdapterConfig) -> None:
        """Raise a UserError if a module of ``modules_to_save`` is trained as a whole by another method, too:
        only one of the two copies would run."""
        wanted = tuple(config.modules_to_save or ())
        for name, module in self.model.named_modules():
            if not (isinstance(module, AuxiliaryTrainingWrapper) and name.endswith(wanted)):
                continue
            if others := module._adapters - set(self._graph_names()):
                raise UserError(
                    f"{name} is in modules_to_save of {min(others)!r} already, and one copy of it runs: "
                    "remove it from the graph adapter's modules_to_save (task_type SEQ_CLS adds it)"
                )

    def _enable_adapter_layers(self, enabled: bool = True) -> None:
        """Switch the adapters on or off; while they are off, the model runs its own attention function."""
        if not enabled:
            self._check_hooks()
        super()._enable_adapter_layers(enabled)
        if not enabled:
            self._release()
        elif self._listens():
            self._attach()

    def layers(self) -> dict[str, GraphAdapter]:
        """The active adapters after attention layers.

        Returns:
            ``{name of the attention layer: adapter}``, named as :func:`attngraph.capture` names the layers of
            the base model; empty while the adapters are off.
        """
        adapted = {site.name: layer.enabled_module for site, layer in self._adapted_sites()}
        return {name: adapter for name, adapter in adapted.items() if adapter is not None}

    def _listens(self) -> bool:
        return any(isinstance(module, OutputLayer) for module in self.model.modules())

    def _attach(self) -> None:
        """Make the attention layers call the adapters behind them."""
        if self.instrument is None:
            setattr(self.model, INSTRUMENT, instrument(self.model))
            for site, layer in self._adapted_sites():
                _add(site, layer)

    def _release(self) -> None:
        """Give the model its own attention function back."""
        if self.instrument is not None:
            for site, layer in self._adapted_sites():
                if layer.listen in site.listeners:
                    site.listeners.remove(layer.listen)
            self.instrument.remove()
            delattr(self.model, INSTRUMENT)

    def _adapted_sites(self) -> Iterator[tuple[Site, OutputLayer]]:
        """The attention layers that are followed by adapters."""
        for site in self._sites():
            if site.output_name is not None:
                layer = find_layer(self.model.get_submodule(site.output_name))
                if isinstance(layer, OutputLayer):
                    yield site, layer

    def _sites(self) -> list[Site]:
        return [] if self.instrument is None else list(self.instrument.sites.values())

    # ---- mixed batches --------------------------------------------------------------------------------

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Called by ``PeftModel`` around each pass and each call of ``generate``, where ``adapter_names`` may
        say which adapter each example runs.

        Raises:
            UserError: ``adapter_names`` in training, with a name that there is not, or with other methods of
                PEFT in the model.
        """
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        self._check_adapter_names(names)
        generation = vars(kwargs["generation_config"]) if kwargs.get("generation_config") else {}
        copies = {number for name in BEAMS for number in (kwargs.get(name), generation.get(name)) if number}
        mixed = MixedBatch(tuple(names), {1, *copies})
        layers = self._graph_layers()
        hooks = [
            wrapper.register_forward_pre_hook(partial(_pass_names, mixed), with_kwargs=True)
            for wrapper in self._wrappers()
        ]
        for layer in layers:
            layer.set_mixed_batch(mixed)
        try:
            yield
        finally:
            for layer in layers:
                layer.set_mixed_batch(None)
            for hook in hooks:
                hook.remove()

    def _check_adapter_names(self, names: Any) -> None:
        known = self._graph_names()
        if not isinstance(names, (list, tuple)) or not names:
            raise UserError(f"adapter_names must be a list with a name for each example, got {names!r}")
        for name in names:
            if name not in (*known, BASE):
                raise UserError(
                    f"adapter_names: there is no graph adapter {name!r}: choose from "
                    f"{', '.join([*known, BASE])}"
                )
        if self.training:
            raise UserError("adapter_names is for evaluation: call eval() on the model, or train one adapter")
        for module in self.model.modules():
            if isinstance(module, BaseTunerLayer) and not isinstance(module, GraphLayer):
                raise UserError(
                    f"adapter_names chooses between graph adapters, and {method_of(module)} in the same "
                    "model would act on every example: remove it"
                )

    # ---- taking them out ------------------------------------------------------------------------------

    def delete_adapter(self, adapter_name: str) -> None:
        if adapter_name in self.peft_config and adapter_name not in self._graph_names():
            config: Any = self.peft_config[adapter_name]
            raise UserError(
                f"{adapter_name!r} is a {config.peft_type.value} adapter below the graph adapters: "
                "unload() removes everything"
            )
        listening = [layer for layer in self._graph_layers() if isinstance(layer, OutputLayer)]
        if all(set(layer.gnn_adapter) <= {adapter_name} for layer in listening):
            self._check_hooks()  # the model gets its own attention back
        active = self.active_adapters
        super().delete_adapter(adapter_name)
        left = self._graph_names()[:1]
        if left and adapter_name in active:
            self.set_adapter(left)  # the same one in all layers, even if adapters sit in different ones
        self._take_back(adapter_name)
        if not self._listens():
            self._release()
        if not left:  # what is below the graph adapters goes on
            self.active_adapter = list(self.peft_config)[:1]
        if not self._graph_layers():
            _thaw(self.model)

    def add_weighted_adapter(self, *args: Any, **options: Any) -> None:
        """Graph adapters are not linear.

        Raises:
            UserError: always.
        """
        raise UserError(
            "a weighted sum of graph adapters is not a graph adapter, since they are not linear: train one, "
            "or let each example of a batch run its own with adapter_names=[...]"
        )

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **options: Any) -> Any:
        if merge:
            self._check_merge_allowed()
        self._check_hooks()
        self._release()
        for layer in self._graph_layers():
            layer.unwatch()
        unload: Any = super()._unload_and_optionally_merge
        model = unload(merge, *args, **options)
        _thaw(model)
        return model

    def _check_hooks(self) -> None:
        """Raise an error if attention layers to be restored have hooks such as those of accelerate.

        Such a hook keeps the forward method of the class that the layer has while the adapters run.

        Raises:
            UserError: there is such a hook.
        """
        for site in self._sites():
            if "forward" in vars(site.module) and is_stand_in(type(site.module)):
                raise UserError(
                    f"{site.name} has hooks on its forward method, as accelerate's dispatch_model and "
                    "device_map add them: remove them before the adapters are disabled or removed"
                )

    # ---- saving ---------------------------------------------------------------------------------------

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """The key without the adapter's name, and the same whether or not LoRA is in the model."""
        place, ours, rest = key.rpartition(f".{ADAPTERS}.{adapter_name}.")
        if not ours:
            return super()._remove_adapter_name_from_key(key, adapter_name)
        while place.endswith(".base_layer"):
            place = place.removesuffix(".base_layer")
        while place.startswith(2 * PREFIX):  # LoRA's PeftModel around that of the graph adapters
            place = place.removeprefix(PREFIX)
        return f"{place}.{ADAPTERS}.{rest}"

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The weights under the model's names; called by PEFT whenever it loads some.

        Raises:
            UserError: they do not fit; see :func:`attngraph.adapters.peft.loading.check_saved_weights`.
        """
        state = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        check_saved_weights(model, adapter_name, state)
        if any(type(module).__module__.startswith(NO_GRADIENT) for module in model.modules()):
            whole = model.state_dict()  # such layers fail where their own entries are missing
            whole.update(state)
            return whole
        return state


def _before(own: Callable[..., None], check: Callable[..., None]) -> Callable[..., None]:
    """A method of PEFT's tuners that first runs a check of ours."""

    @wraps(own)
    def checked(tuner: BaseTuner, *args: Any, **options: Any) -> None:
        check(tuner, *args, **options)
        own(tuner, *args, **options)

    return checked


def _check_merge(tuner: BaseTuner) -> None:
    """Raise a UserError if there are graph adapters in a model, before anything in it is merged. PEFT would
    have merged half of LoRA's layers when it asks the first one of ours."""
    if any(isinstance(module, GraphLayer) for module in tuner.model.modules()):
        raise UserError(NOT_MERGED)


def _check_deletion(tuner: BaseTuner, adapter_name: str) -> None:
    """Raise a UserError if another method's PeftModel is to delete a graph adapter: the layers would stay."""
    config: Any = tuner.peft_config.get(adapter_name)
    if config is not None and config.peft_type == PEFT_TYPE and not isinstance(tuner, GraphAdapterModel):
        raise UserError(
            f"{adapter_name!r} is a graph adapter: call delete_adapter on the PeftModel that added it"
        )


BaseTuner._check_merge_allowed = _before(BaseTuner._check_merge_allowed, _check_merge)  # type: ignore[method-assign]
BaseTuner.delete_adapter = _before(BaseTuner.delete_adapter, _check_deletion)  # type: ignore[method-assign]


def check_name(adapter_name: str) -> None:
    """Check that a name can be the name of a module and of a folder.

    Raises:
        UserError: an empty name, one with characters other than letters, digits, - and _, or one that
            ``nn.ModuleDict`` itself uses.
    """
    try:
        nn.ModuleDict({adapter_name: nn.Identity()})
        usable = re.fullmatch(r"[\w-]+", adapter_name) is not None
    except (KeyError, TypeError):
        usable = False
    if not usable:
        raise UserError(
            f"the adapter name {adapter_name!r} cannot be the name of a module and of a folder: choose one "
            "of letters, digits, - and _"
        )


def _thaw(model: nn.Module) -> None:
    """Let a base model's parameters learn that did before the first graph adapter, if they do not yet."""
    trained = vars(model).pop(TRAINED_BEFORE, ())
    for name, parameter in model.named_parameters():
        if _plain_name(name) in trained:
            parameter.requires_grad_(True)


def _plain_name(name: str) -> str:
    """A parameter's name in a model without layers of PEFT."""
    return name.replace(".base_layer.", ".")


def _pass_names(mixed: MixedBatch, module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Hook that passes the adapter name of each example to a module of ``modules_to_save``."""
    names = [name if name in module._adapters else BASE for name in mixed.expanded(len(args[0]))]
    return args, {**kwargs, "adapter_names": names}


def _add(site: Site, layer: OutputLayer) -> None:
    if layer.listen not in site.listeners:  # it is if a second PeftModel wraps the same model
        site.listeners.append(layer.listen)
