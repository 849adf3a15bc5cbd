"""A graph adapter on a frozen model: the rows of the GNN ablation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from adapters import SCHEMES, GraphAdapterConfig
from adapters.config import POSITIONS, AdapterConfig
from adapters.joins import JOINS
from experiments.configs.settings import Settings
from experiments.known import check_known
from experiments.methods.method import (
    ADAPTERS,
    ATTRIBUTION,
    METHODS,
    VARIANTS,
    Method,
    canonical,
)
from experiments.methods.peft_method import PeftMethod
from experiments.models.family import ModelFamily

Arguments = Mapping[str, Any]
RATES = (3e-3, 1e-2)  # with which the search of an adapter begins


@dataclass(frozen=True, kw_only=True)
class GraphAdapter(PeftMethod):
    """Adapters after self-attention, cross-attention and the feed-forward blocks of the language side.

    Args:
        gnn: the scheme's name in ``adapters.SCHEMES``.
        tried: arguments that ``attngraph search`` tries, with every join; the first ones are the scheme's
            where nothing was chosen. None for a method that takes those of the one that it follows.
        joins: ways to join the model that the search tries.
        fixed: arguments that set the row apart from the scheme's chosen ones.
        join: a way to join the model that sets the row apart.
        rescale, positions, query_rows: see :class:`adapters.GraphAdapterConfig`. The settings of a run name
            them where they are not its defaults.
        reduction: the row's own; None as chosen.
    """

    gnn: str
    group: str = ADAPTERS
    tried: tuple[Arguments, ...] = ()
    joins: tuple[str, ...] = tuple(JOINS)
    fixed: Arguments = field(default_factory=dict)
    join: str | None = None
    rescale: bool = False
    positions: tuple[str, ...] = POSITIONS
    query_rows: str = AdapterConfig.query_rows
    reduction: int | None = None

    def arguments(self, chosen: Settings, task: str) -> dict[str, Any]:
        """The scheme's arguments: the chosen ones as far as the scheme has such, and the row's own."""
        known = self.argument_names()
        carried = {name: value for name, value in self._carried(chosen, task).items() if name in known}
        return {**carried, **self.fixed}

    def argument_names(self) -> list[str]:
        return list(inspect.signature(SCHEMES[self.gnn]).parameters)

    def _carried(self, chosen: Settings, task: str) -> Arguments:
        """The arguments that were chosen for it, or for the method that it follows."""
        choice = self.choice(chosen, task)
        if choice is not None:
            return choice.arguments
        leader = METHODS.get(self.leader)
        return leader.tried[0] if isinstance(leader, GraphAdapter) and leader.tried else {}

    def settings(self, chosen: Settings, task: str, join: str | None = None) -> dict[str, Any]:
        choice = self.choice(chosen, task)
        settings = {
            "gnn": self.gnn,
            "gnn_args": self.arguments(chosen, task),
            "join": self.join or join or (choice.join if choice else "blend"),
            "reduction": self.reduction or chosen.reduction,
        }
        own = {
            "rescale": self.rescale,
            "positions": list(self.positions),
            "query_rows": self.query_rows,
        }
        usual = {"rescale": False, "positions": list(POSITIONS), "query_rows": AdapterConfig.query_rows}
        return settings | {name: value for name, value in own.items() if value != usual[name]}

    def further_settings(self) -> list[str]:
        return [option.name for option in fields(AdapterConfig)]

    def config(self, family: ModelFamily, settings: dict[str, Any]) -> GraphAdapterConfig:
        return GraphAdapterConfig(**settings)


def attribution(name: str, title: str, note: str, gnn: str = "pgnn", **options: Any) -> GraphAdapter:
    """A row that differs from pGNN in one thing, so that it tells what that thing does. Its learning rates
    are chosen on validation data like those of the others; its other settings are pGNN's.
    """
    kind = options.pop("kind", GraphAdapter)
    return kind(
        name=name, title=title, note=note, group=ATTRIBUTION, gnn=gnn, follows="pgnn", rates=RATES, **options
    )


def variant(name: str, title: str, note: str, gnn: str = "pgnn", **options: Any) -> GraphAdapter:
    """A row of a small table: GCN or pGNN with one option set otherwise, its chosen settings and learning
    rates otherwise kept.
    """
    return GraphAdapter(name=name, title=title, note=note, group=VARIANTS, gnn=gnn, follows=gnn, **options)


def method_named(name: str) -> Method:
    """The method of a name or of an alias; a scheme of one's own is a row without further ado, with the
    vanilla adapter's settings.

    Raises:
        UserError: neither a method nor a scheme.
    """
    name = canonical(name)
    if name in METHODS:
        return METHODS[name]
    check_known([name], list(dict.fromkeys([*METHODS, *SCHEMES])), "method")
    return GraphAdapter(name=name, title=name, gnn=name, follows="gcn")
