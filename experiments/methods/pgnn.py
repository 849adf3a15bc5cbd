"""pGNN, the p-adapter."""

from experiments.methods.graph_adapter import RATES, GraphAdapter
from experiments.methods.method import register

register(
    GraphAdapter(
        name="pgnn",
        title="pGNN",
        gnn="pgnn",
        tried=({"p": 1.5, "mu": 0.1}, {"p": 1.5, "mu": 1.0}),
        rates=RATES,
    )
)
