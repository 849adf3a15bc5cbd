"""GCN, which is the vanilla adapter."""

from experiments.methods.graph_adapter import GraphAdapter
from experiments.methods.method import register

register(GraphAdapter(name="gcn", title="GCN", gnn="gcn", start={}))
