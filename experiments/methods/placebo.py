"""Distances that know the length of a query and nothing of where it points."""

from experiments.methods.graph_adapter import attribution
from experiments.methods.method import register

register(
    attribution(
        "placebo",
        "Placebo distances",
        "pGNN whose distances R see queries turned at random, all else as it is",
        gnn="placebo",
        control=True,
    )
)
