"""What an attention module carries while its model is instrumented."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from functools import cache, cached_property
from typing import Any, Protocol, cast

from torch import Tensor, nn

from attngraph.reading.calls import Call, Site
from attngraph.reading.flow import Flow
from attngraph.reading.per_thread import PerThread
from attngraph.reading.projection import Projections

ATTRIBUTE = "attngraph"  # under which a module carries its hub


class Holder(Protocol):
    """Who holds a module's model, see :class:`attngraph.reading.instrument.Hold`.

    Attributes:
        flow: what the calls of the model's modules know of each other.
        generates: whether the model generates text.
    """

    flow: Flow

    @property
    def generates(self) -> bool: ...


class Given:
    """What an attention module was given in the forward pass that is running.

    Attributes:
        source: the states to attend to among its arguments, if any.
        states: how many states it was given, if those of one kind only.
        cache: the key/value cache among them, if any.
        wanted: whether it was asked for its weights (``output_attentions``).
        watch: what watches it, if its attention is read that way.
    """

    def __init__(self):
        self.source: Tensor | None = None
        self.states: int | None = None
        self.cache: Any = None
        self.wanted = False
        self.watch: Any = None


class Notes:
    """What a family's hooks leave for its attention modules; each thread has its own.

    A thread that was left nothing under a name finds what was left last: where layers run again in the
    backward pass (gradient checkpointing), autograd runs them in its own threads, without the outer module.
    """

    def __init__(self):
        self._own: PerThread[dict[str, Any]] = PerThread(dict)
        self._last: dict[str, Any] = {}

    def __reduce__(self):  # copies of a model start anew
        return Notes, ()

    def __setitem__(self, name: str, value: Any) -> None:
        self._own.get()[name] = self._last[name] = value

    def __getitem__(self, name: str) -> Any:
        """What was left under a name; None if nothing was."""
        return self._own.get().get(name, self._last.get(name))

    def take(self, name: str) -> Any:
        """What was left in this thread, once; None if nothing was."""
        self._last.pop(name, None)
        return self._own.get().pop(name, None)


class Hub:
    """What an attention module carries while it is instrumented, as ``module.attngraph``.

    Args:
        site: its first description; several handles may have their own.
        hold: what the modules of a model have in common.
        home: the innermost transformers model that holds the module; else what was instrumented.
        watched: whether its attention is read by watching it run.

    Attributes:
        listeners: called with each :class:`attngraph.reading.calls.Call`.
        plain: whether its eager attention is a plain softmax, by the settings that it runs with.
        notes: what a family's hooks leave for its attention modules.
        projections: what its query projection put out.
    """

    def __init__(self, site: Site, hold: Holder, home: nn.Module, watched: bool = False):
        self.site, self.hold, self.home, self.watched = site, hold, home, watched
        self.listeners: list[Callable[[Call], None]] = []
        self._given = PerThread(Given)
        self.plain: dict[tuple, bool] = {}
        self.notes = Notes()
        self.projections = Projections()

    @cached_property
    def decodes(self) -> bool:
        """Whether ``home`` orders the queries of self-attention in time: it makes causal masks, or another of
        its attention modules says so."""
        hubs = (hub for part in self.home.modules() if (hub := find_hub(part)) is not None)
        others = (hub for hub in hubs if hub is not self and hub.home is self.home)
        if any(is_causal(hub.site.module) for hub in others):
            return True
        names = masks_made(cast(Hashable, type(self.home)))
        if "bidirectional" in names and "causal" in names:  # an encoder or a decoder, as it is configured
            return bool(getattr(getattr(self.home, "config", None), "is_decoder", True))
        return "causal" in names

    @property
    def given(self) -> Given:
        """The arguments of the forward pass that is running in this thread."""
        return self._given.get()


def is_causal(module: nn.Module) -> bool | None:
    """What an attention module says of the order of its queries: ``is_causal``, or ``is_decoder`` where the
    former is False, its default in some families, in a decoder too. None if it says nothing."""
    return bool(getattr(module, "is_decoder", False)) or getattr(module, "is_causal", None)


@cache
def masks_made(kind: Hashable) -> frozenset[str]:
    """``causal`` and ``bidirectional``: which of transformers' functions that make masks a model's class
    calls."""
    assert isinstance(kind, type)
    functions = [f for base in kind.__mro__ for f in vars(base).values() if inspect.isfunction(f)]
    names = {name for f in functions for name in inspect.unwrap(f).__code__.co_names if "create_" in name}
    return frozenset(x for x in ("causal", "bidirectional") if any(f"{x}_mask" in name for name in names))


def find_hub(module: nn.Module) -> Hub | None:
    """The module's hub; None while it is not instrumented."""
    return module.__dict__.get(ATTRIBUTE)


def hub_of(module: nn.Module) -> Hub:
    """The hub of an instrumented module."""
    return module.__dict__[ATTRIBUTE]
