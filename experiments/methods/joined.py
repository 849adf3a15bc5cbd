"""pGNN, and the vanilla adapter, joined to the model in another way than the chosen one."""

from experiments.methods.graph_adapter import attribution
from experiments.methods.method import register

register(attribution("pgnn_replace", "pGNN, replace", "the paper's join", join="replace"))
register(attribution("pgnn_gated", "pGNN, gated", "the released code's join, repaired", join="gated"))
register(
    attribution(
        "gcn_gated", "GCN, gated", "what that gate does to the vanilla adapter", gnn="gcn", join="gated"
    )
)
