"""GCN, which is the vanilla adapter."""

from experiments.methods.graph_adapter import RATES, GraphAdapter
from experiments.methods.method import register

# With ``blend`` GCN is what it is with ``replace``: its output is the attention output.
register(
    GraphAdapter(name="gcn", title="GCN", gnn="gcn", tried=({},), joins=("replace", "gated"), rates=RATES)
)
