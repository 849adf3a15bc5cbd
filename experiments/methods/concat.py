"""What stands in the query rows of the node features: the rows of the table *concat* beside pGNN, which has
the queries there."""

from experiments.methods.graph_adapter import variant
from experiments.methods.method import register

for rows, title, note in (
    ("zero", "Zeros", "pGNN with zeros for the queries in distances and residual"),
    (
        "noise",
        "Noise",
        "pGNN with noise at the queries' lengths, fixed for each place, in distances and residual",
    ),
):
    register(variant(f"pgnn_{rows}", f"{title} as query rows", note, query_rows=rows))
