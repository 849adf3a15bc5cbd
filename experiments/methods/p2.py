"""What pGNN's normalisation alone does: p = 2, no residual."""

from experiments.methods.graph_adapter import attribution
from experiments.methods.method import register

register(
    attribution(
        "p2",
        "Normalisation alone (p = 2)",
        "pGNN with p = 2 and no residual: only the degrees of the graph act",
        fixed={"p": 2.0, "mu": 0.0, "learn_p": False},
    )
)
