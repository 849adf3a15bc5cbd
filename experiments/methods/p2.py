"""What pGNN's normalisation alone does: p = 2, no residual."""

from experiments.methods.graph_adapter import GraphAdapter
from experiments.methods.method import ATTRIBUTION, register

register(
    GraphAdapter(
        name="p2",
        title="Normalisation alone (p = 2)",
        group=ATTRIBUTION,
        gnn="pgnn",
        fixed={"p": 2.0, "mu": 0.0, "learn_p": False},
        follows="pgnn",
        note="pGNN with p = 2 and no residual: only the degrees of the graph act",
    )
)
