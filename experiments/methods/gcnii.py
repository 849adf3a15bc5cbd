"""GCNII as the adapter's scheme."""

from experiments.methods.graph_adapter import GraphAdapter
from experiments.methods.method import register

register(
    GraphAdapter(
        name="gcnii",
        title="GCNII",
        gnn="gcnii",
        start={"alpha": 0.1, "theta": 0.5},
        alternatives=({"alpha": 0.3, "theta": 0.5}, {"alpha": 0.1, "theta": 0.5, "degree": "mean"}),
    )
)
