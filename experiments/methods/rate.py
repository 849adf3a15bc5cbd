"""What pGNN's learning rates alone do: the vanilla adapter with them."""

from experiments.methods.graph_adapter import GraphAdapter
from experiments.methods.method import ATTRIBUTION, register

register(
    GraphAdapter(
        name="rate",
        title="Learning rate alone",
        group=ATTRIBUTION,
        gnn="gcn",
        follows="pgnn",
        note="GCN, the vanilla adapter, with pGNN's learning rates",
    )
)
