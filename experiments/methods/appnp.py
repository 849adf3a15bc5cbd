"""APPNP as the adapter's scheme."""

from experiments.methods.graph_adapter import GraphAdapter
from experiments.methods.method import register

register(
    GraphAdapter(
        name="appnp",
        title="APPNP",
        gnn="appnp",
        start={"alpha": 0.1},
        alternatives=({"alpha": 0.3}, {"alpha": 0.1, "degree": "mean"}),
    )
)
