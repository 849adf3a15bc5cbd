"""What pGNN's residual alone does: no degrees, no re-weighting."""

import inspect
from dataclasses import dataclass
from typing import Any

from adapters import SCHEMES
from experiments.configs.settings import Settings
from experiments.methods.graph_adapter import GraphAdapter, attribution
from experiments.methods.method import register


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


register(
    attribution(
        "residual",
        "Residual alone",
        "attention output plus a share of the query's own features, no degrees, no re-weighting",
        gnn="residual",
        kind=ResidualAlone,
    )
)
