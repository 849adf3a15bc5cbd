"""pGNN with degrees that do not grow with the number of queries."""

from experiments.methods.graph_adapter import attribution
from experiments.methods.method import register

register(attribution("mean_degree", "Mean degrees", 'pGNN with degree="mean"', fixed={"degree": "mean"}))
