"""State of an instrumented model and its attention modules during forward passes.

- :class:`ModelState`: state shared by the calls of one model;
- :class:`LayerState`: state of an attention module, as ``module.attngraph``;
- :class:`CurrentPass`: inputs of the module in the current forward pass.

Several threads may run a model at once; each has separate passes.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Hashable
from functools import cache, cached_property
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from attngraph.reading.calls import Call, Site
from attngraph.reading.masks import Mask, read_mask
from attngraph.reading.origins import Origins
from attngraph.reading.per_thread import PerThread
from attngraph.reading.projection import Projections

ATTRIBUTE = "attngraph"  # under which a module carries its state


class _Left:
    """Results of earlier calls: masks that were read, and self-attention by ``inner_model``, ``b`` and
    ``n``."""

    def __init__(self):
        self.masks: list[tuple] = []
        self.seen: list[tuple[Tensor, Mask]] = []
        self.calls: dict[tuple[object, int, int], SelfAttention] = {}


class SelfAttention(NamedTuple):
    """Information that a self-attention call leaves for the cross-attention after it.

    Attributes:
        causal: whether its queries are ordered in time.
        span: which queries count in the degrees that each query sees; see :class:`attngraph.AttentionGraph`.
        queries: which of them are valid, bool ``(b, n)``; None if all are.
        valid: whether all are.
        layer_idx: the layer's place in the key/value cache.
        stored: whether its keys and values are in the cache by now.
    """

    causal: bool = False
    span: Tensor | None = None
    queries: Tensor | None = None
    valid: bool = True
    layer_idx: int | None = None
    stored: bool = True


class ModelState:
    """State shared by the calls of one model, separate in each thread: a mask is read once, and
    cross-attention follows the self-attention call before it in the same forward pass, with the same number
    of queries in the same part (``inner_model``, the innermost transformers model)."""

    KEPT = 8  # numbers of queries whose last self-attention is remembered

    def __init__(self):
        self._own = PerThread(_Left)
        self._latest = _Left()

    def __reduce__(self):  # copies of a model start empty
        return ModelState, ()

    @property
    def _left(self) -> _Left:
        """Results of this thread's calls. Autograd's threads, which run layers again in the backward pass
        (gradient checkpointing), start no pass: they use that of the last thread that did."""
        return self._own.get() if self._own.known() else self._latest

    def begin(self, inner_model: object) -> None:
        """A forward pass of ``inner_model`` begins: forget the self-attention of the one before."""
        left = self._latest = self._own.get()
        left.calls = {key: call for key, call in left.calls.items() if key[0] is not inner_model}
        left.seen = []

    def mask(self, mask: Tensor | None, shape: tuple[int, int, int, int]) -> Mask:
        """:func:`attngraph.reading.masks.read_mask`, once for all layers that get the same tensor."""
        left = self._left
        for kept, key, read in left.masks:
            if mask is not None and kept() is mask and key == (shape[0], *shape[2:], mask._version):
                return read
        read = read_mask(mask, shape)
        if mask is not None and not (mask.is_inference() or torch.is_inference_mode_enabled()):
            left.masks = [entry for entry in left.masks if entry[0]() is not None][-self.KEPT :]
            left.masks.append((weakref.ref(mask), (shape[0], *shape[2:], mask._version), read))
        return read

    def seen(self, visible: Tensor | None, shape: tuple[int, int, int, int]) -> Mask:
        """The same for what calls were seen to hide, bool ``shape``, once for all layers that hide the same
        edges."""
        left = self._left
        if visible is None:
            return read_mask(None, shape)
        for kept, read in left.seen:
            if kept.shape == visible.shape and torch.equal(kept, visible):
                return read
        read = read_mask(visible, shape)
        left.seen = [*left.seen[1 - self.KEPT :], (visible, read)]
        return read

    def note(self, inner_model: object, b: int, n: int, call: SelfAttention) -> None:
        """Remember a self-attention call over ``n`` queries of ``b`` examples."""
        calls = self._left.calls
        calls.pop((inner_model, b, n), None)
        calls[inner_model, b, n] = call
        while len(calls) > self.KEPT:
            del calls[next(iter(calls))]

    def before(self, inner_model: object, b: int, n: int) -> SelfAttention | None:
        """The last such call in this forward pass, if there was one."""
        return self._left.calls.get((inner_model, b, n))


class CurrentPass:
    """Inputs of an attention module in the current forward pass.

    Attributes:
        source: the states to attend to among its arguments, if any.
        states: number of states that it received, if of one kind only.
        cache: the key/value cache among its arguments, if any.
        output_attentions: whether it was asked for its weights.
        watch: the watch on it, if its attention is read that way.
        origins: follows its states, if their names do not say which of them it attends to.
        unordered: whether it left no information for cross-attention after it: its attention cannot be read,
            or its mask has an order that a graph cannot represent.
    """

    def __init__(self):
        self.source: Tensor | None = None
        self.states: int | None = None
        self.cache: Any = None
        self.output_attentions = False
        self.watch: Any = None
        self.origins: Origins | None = None
        self.unordered = False


class Notes:
    """Notes of a family's hooks for its attention modules, separate in each thread.

    A thread without a note under a name uses the last one of any thread: with gradient checkpointing,
    autograd runs layers again in its own threads, without the outer module.
    """

    def __init__(self):
        self._own: PerThread[dict[str, Any]] = PerThread(dict)
        self._last: dict[str, Any] = {}

    def __reduce__(self):  # copies of a model start empty
        return Notes, ()

    def __setitem__(self, name: str, value: Any) -> None:
        self._own.get()[name] = self._last[name] = value

    def __getitem__(self, name: str) -> Any:
        """The note under a name, or None."""
        return self._own.get().get(name, self._last.get(name))

    def take(self, name: str) -> Any:
        """Remove and return this thread's note under a name, or None."""
        self._last.pop(name, None)
        return self._own.get().pop(name, None)


class LayerState:
    """State of an instrumented attention module, as ``module.attngraph``.

    Args:
        site: its first description; several handles may have different ones.
        changes: the changes to the model, :class:`attngraph.reading.instrument.Changes`.
        inner_model: the innermost transformers model that holds the module, or else the instrumented model.
        watched: whether its attention is read by watching it run.

    Attributes:
        listeners: called with each :class:`attngraph.reading.calls.Call`.
        softmax_tests: for each setting that it runs with, whether its eager attention is exactly a softmax of
            scores.
        notes: notes of a family's hooks for its attention modules.
        projections: outputs of its query projection.
    """

    def __init__(self, site: Site, changes: Any, inner_model: nn.Module, watched: bool = False):
        self.site, self.changes, self.inner_model, self.watched = site, changes, inner_model, watched
        self.listeners: list[Callable[[Call], None]] = []
        self._given = PerThread(CurrentPass)
        self.softmax_tests: dict[tuple, bool] = {}
        self.notes = Notes()
        self.projections = Projections()

    @property
    def model(self) -> ModelState:
        """State shared by the modules of the model."""
        return self.changes.model

    @cached_property
    def decodes(self) -> bool:
        """Whether ``inner_model`` orders the queries of self-attention in time: it makes causal masks, or
        another of its attention modules is declared causal."""
        layers = (state for part in self.inner_model.modules() if (state := find_state(part)) is not None)
        others = (state for state in layers if state is not self and state.inner_model is self.inner_model)
        if any(is_causal(state.site.module) for state in others):
            return True
        names = masks_made(cast(Hashable, type(self.inner_model)))
        if "bidirectional" in names and "causal" in names:  # depending on the configuration
            return bool(getattr(getattr(self.inner_model, "config", None), "is_decoder", True))
        return "causal" in names

    @property
    def given(self) -> CurrentPass:
        """The arguments of the forward pass that is running in this thread."""
        return self._given.get()


def is_causal(module: nn.Module) -> bool | None:
    """Declaration of an attention module about the order of its queries: ``is_causal``, or ``is_decoder`` if
    the former is False, which is the default in some families, also in a decoder. None without a
    declaration."""
    return bool(getattr(module, "is_decoder", False)) or getattr(module, "is_causal", None)


@cache
def masks_made(kind: Hashable) -> frozenset[str]:
    """``causal`` and ``bidirectional``: which of transformers' functions that make masks a model's class
    calls."""
    assert isinstance(kind, type)
    functions = [f for base in kind.__mro__ for f in vars(base).values() if inspect.isfunction(f)]
    names = {name for f in functions for name in inspect.unwrap(f).__code__.co_names if "create_" in name}
    return frozenset(x for x in ("causal", "bidirectional") if any(f"{x}_mask" in name for name in names))


def find_state(module: nn.Module) -> LayerState | None:
    """The module's state; None while it is not instrumented."""
    return module.__dict__.get(ATTRIBUTE)


def state_of(module: nn.Module) -> LayerState:
    """The state of an instrumented module."""
    return module.__dict__[ATTRIBUTE]


def arguments(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``module(*args, **kwargs)`` by name, without defaults."""
    names = _positional(cast(Hashable, type(module)))
    return {**dict(zip(names, args)), **kwargs}


@cache
def _positional(kind: Hashable) -> tuple[str, ...]:
    """The names of the arguments of a class's forward that may be given by their place."""
    assert isinstance(kind, type) and issubclass(kind, nn.Module)
    several = list(inspect.signature(kind.forward).parameters.values())[1:]
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(x.name for x in several if x.kind in by_place)
