"""What pGNN's residual alone does: no degrees, no re-weighting."""

from dataclasses import dataclass
from typing import Any

from experiments.configs.settings import Settings
from experiments.methods.graph_adapter import GraphAdapter, attribution
from experiments.methods.method import register


@dataclass(frozen=True, kw_only=True)
class ResidualAlone(GraphAdapter):
    """The attention output and a share of the query's own features: pGNN's β at its start, where the weights
    that p makes of a query's edges sum to 1."""

    def arguments(self, chosen: Settings, task: str) -> dict[str, Any]:
        pgnn = self._carried(chosen, task)
        residual = 2 * pgnn["mu"] / pgnn["p"]
        return {"alpha": residual / (1 + residual)}


register(
    attribution(
        "residual",
        "Residual alone",
        "attention output plus a share of the query's own features, no degrees, no re-weighting",
        gnn="residual",
        kind=ResidualAlone,
    )
)
