"""GCNII as the adapter's scheme."""

from experiments.methods.graph_adapter import RATES, GraphAdapter
from experiments.methods.method import register

# With ``gated`` GCNII is APPNP: its own way to combine does not apply there.
register(
    GraphAdapter(
        name="gcnii",
        title="GCNII",
        gnn="gcnii",
        tried=({"alpha": 0.1, "theta": 0.5}, {"alpha": 0.3, "theta": 0.5}),
        joins=("replace", "blend"),
        rates=RATES,
    )
)
