"""What pGNN's learning rates alone do: the vanilla adapter with them."""

from dataclasses import dataclass
from typing import Any

from experiments.configs.settings import Settings
from experiments.methods.graph_adapter import GraphAdapter
from experiments.methods.method import ATTRIBUTION, METHODS, register


@dataclass(frozen=True, kw_only=True)
class OtherRate(GraphAdapter):
    """A scheme with its own settings, and the learning rates of the method that it follows."""

    def settings(self, chosen: Settings, task: str, join: str | None = None) -> dict[str, Any]:
        return METHODS[self.gnn].settings(chosen, task, join)


register(
    OtherRate(
        name="rate",
        title="Learning rate alone",
        group=ATTRIBUTION,
        gnn="gcn",
        follows="pgnn",
        note="GCN, the vanilla adapter, with pGNN's learning rates",
    )
)
