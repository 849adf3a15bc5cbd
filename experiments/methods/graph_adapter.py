"""A graph adapter on a frozen model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from adapters import SCHEMES, GraphAdapterConfig
from adapters.config import POSITIONS, AdapterConfig
from adapters.joins import JOINS
from experiments.base.known import check_known
from experiments.methods.method import ADAPTERS, METHODS, Method, canonical
from experiments.methods.peft import PeftMethod
from experiments.methods.settings import Settings
from experiments.models.family import ModelFamily

Arguments = Mapping[str, Any]


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


@dataclass(frozen=True, kw_only=True)
class OtherRate(GraphAdapter):
    """A scheme with its own settings, and the learning rates of the method that it follows."""

    def settings(self, chosen: Settings, task: str, join: str | None = None) -> dict[str, Any]:
        return METHODS[self.gnn].settings(chosen, task, join)


@dataclass(frozen=True, kw_only=True)
class ResidualAlone(GraphAdapter):
    """The attention output and a share of the query's own features: pGNN's β at its start, where the weights
    that p makes of a query's edges sum to 1."""

    def arguments(self, chosen: Settings, task: str) -> dict[str, Any]:
        carried = self._carried(chosen, task)
        if "alpha" in carried:  # its own, as a sweep writes it
            return {"alpha": carried["alpha"]}
        of_pgnn = inspect.signature(SCHEMES["pgnn"]).parameters
        mu, p = (carried.get(name, of_pgnn[name].default) for name in ("mu", "p"))
        residual = 2 * mu / p
        return {"alpha": residual / (1 + residual)}


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
