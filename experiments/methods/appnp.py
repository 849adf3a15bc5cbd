"""APPNP as the adapter's scheme."""

from experiments.methods.graph_adapter import RATES, GraphAdapter
from experiments.methods.method import register

register(
    GraphAdapter(
        name="appnp", title="APPNP", gnn="appnp", tried=({"alpha": 0.1}, {"alpha": 0.3}), rates=RATES
    )
)
