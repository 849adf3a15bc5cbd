"""What an attention module carries while its model is instrumented."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from attngraph.reading.calls import Call, Site
from attngraph.reading.flow import Flow
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


class Hub:
    """What an attention module carries while it is instrumented, as ``module.attngraph``.

    Args:
        site: its first description; several handles may have their own.
        hold: what the modules of a model have in common.
        home: the innermost transformers model that holds the module.

    Attributes:
        listeners: called with each :class:`attngraph.reading.calls.Call`.
        source: the states to attend to among the arguments of the forward pass that is running, if any.
        states: how many states that pass was given, if those of one kind only.
        cache: the key/value cache among them, if any.
        wanted: whether the module was asked for its weights (``output_attentions``).
        plain: whether its eager attention is a plain softmax, by the settings that it runs with.
        notes: what a family's hooks leave for its attention modules.
        projections: what its query projection put out.
    """

    def __init__(self, site: Site, hold: Holder, home: object):
        self.site, self.hold, self.home = site, hold, home
        self.listeners: list[Callable[[Call], None]] = []
        self.source: Tensor | None = None
        self.states: int | None = None
        self.cache: Any = None
        self.wanted = False
        self.plain: dict[tuple, bool] = {}
        self.notes: dict[str, Any] = {}
        self.projections = Projections()


def find_hub(module: nn.Module) -> Hub | None:
    """The module's hub; None while it is not instrumented."""
    return module.__dict__.get(ATTRIBUTE)


def hub_of(module: nn.Module) -> Hub:
    """The hub of an instrumented module."""
    return module.__dict__[ATTRIBUTE]
