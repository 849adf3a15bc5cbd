"""A graph adapter on a frozen model: the rows of the GNN ablation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters import SCHEMES, GraphAdapterConfig
from attngraph.errors import UserError
from experiments.configs.settings import REMEDY, Settings
from experiments.methods.method import ADAPTERS, METHODS, Method, check_known
from experiments.methods.peft_method import PeftMethod
from experiments.models.family import ModelFamily

Arguments = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class GraphAdapter(PeftMethod):
    """Adapters after self-attention, cross-attention and the feed-forward blocks of the language side.

    Args:
        gnn: the scheme's name in ``adapters.SCHEMES``.
        fixed: arguments that set the row apart from the scheme's chosen ones.
        start: arguments before the search.
        alternatives: arguments that ``attngraph search`` tries in their place; a method with ``start`` is
            searched.
    """

    gnn: str
    group: str = ADAPTERS
    fixed: Arguments = field(default_factory=dict)
    start: Arguments | None = None
    alternatives: tuple[Arguments, ...] = ()

    def arguments(self, chosen: Settings) -> dict[str, Any]:
        """The scheme's arguments: the chosen ones if they are the same scheme's, and the row's own."""
        leader = METHODS.get(self.leader)
        same = self.leader == self.name or (isinstance(leader, GraphAdapter) and leader.gnn == self.gnn)
        return {**(self.chosen_arguments(chosen) if same else {}), **self.fixed}

    def chosen_arguments(self, chosen: Settings) -> dict[str, Any]:
        """The leader's chosen arguments.

        Raises:
            UserError: the leader is searched, and its arguments are not among the settings.
        """
        leader = METHODS.get(self.leader)
        searched = isinstance(leader, GraphAdapter) and leader.start is not None
        if searched and self.leader not in chosen.arguments:
            raise UserError(f"settings: field arguments.{self.leader} is missing; {REMEDY}")
        return {**((leader.start or {}) if searched else {}), **chosen.arguments.get(self.leader, {})}

    def settings(self, chosen: Settings, join: str | None = None) -> dict[str, Any]:
        return {
            "gnn": self.gnn,
            "gnn_args": self.arguments(chosen),
            "join": join or chosen.join,
            "reduction": chosen.reduction,
        }

    def config(self, family: ModelFamily, settings: dict[str, Any]) -> GraphAdapterConfig:
        return GraphAdapterConfig(**settings)


def method_named(name: str) -> Method:
    """The method of a name; a scheme of one's own is a row without further ado, with the vanilla adapter's
    settings.

    Raises:
        UserError: neither a method nor a scheme.
    """
    if name in METHODS:
        return METHODS[name]
    check_known([name], list(dict.fromkeys([*METHODS, *SCHEMES])), "method")
    return GraphAdapter(name=name, title=name, gnn=name, follows="gcn")
