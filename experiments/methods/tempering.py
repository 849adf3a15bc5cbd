"""What the power of M in pGNN's weights does: no distances."""

from experiments.methods.graph_adapter import attribution
from experiments.methods.method import register

register(
    attribution(
        "tempering",
        "Tempering alone",
        "pGNN with weights M^(p/2): every distance R is 1",
        gnn="tempering",
        control=True,
    )
)
