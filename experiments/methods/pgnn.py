"""pGNN, the p-adapter."""

from experiments.methods.graph_adapter import GraphAdapter
from experiments.methods.method import register

register(
    GraphAdapter(
        name="pgnn",
        title="pGNN",
        gnn="pgnn",
        start={"p": 1.5, "mu": 0.1},
        alternatives=({"p": 1.5, "mu": 1.0}, {"p": 1.5, "mu": 0.1, "degree": "mean"}),
    )
)
