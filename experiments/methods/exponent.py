"""Fixed exponents: the rows of the table *p* beside pGNN, which learns p."""

from experiments.methods.graph_adapter import variant
from experiments.methods.method import register

for p in (1.25, 1.5, 1.75):
    note = f"pGNN with p kept at {p:g}"
    register(variant(f"pgnn_p{100 * p:.0f}", f"p = {p:g}, fixed", note, fixed={"p": p, "learn_p": False}))
