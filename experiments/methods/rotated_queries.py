"""Distances that know the length of a query and nothing of where it points."""

from experiments.methods.graph_adapter import attribution
from experiments.methods.method import register

register(
    attribution(
        "placebo",  # its name in the runs of before
        "Rotated queries",
        "pGNN whose distances R see queries turned at random, all else as it is",
        gnn="rotated",
        control=True,
    )
)
