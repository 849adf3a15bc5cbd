"""Where pGNN's message points, without how long it is."""

from experiments.methods.graph_adapter import attribution
from experiments.methods.method import register

register(
    attribution(
        "rescaled",
        "Rescaled to |U|",
        "pGNN whose output has the length of the attention output",
        rescale=True,
    )
)
