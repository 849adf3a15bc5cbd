"""How wide the bottleneck is: the rows of the table *width*, for GCN and pGNN.

A row is named by its reduction, the width of the model over that of the bottleneck: 64, 32, 16 and 8 are the
paper's widths 12, 24, 48 and 96 on BLIP's 768, and 2, 4, 8 and 16 on the 128 of mini-BLIP.
"""

from experiments.methods.graph_adapter import variant
from experiments.methods.method import register

PUBLISHED_WIDTH = 768  # of the model in the paper
REDUCTIONS = (64, 32, 16, 8)

for gnn, title in (("gcn", "GCN"), ("pgnn", "pGNN")):
    for reduction in REDUCTIONS:
        width = PUBLISHED_WIDTH // reduction
        note = f"bottlenecks of 1/{reduction} of the model's width: {width} of {PUBLISHED_WIDTH}"
        row = variant(f"{gnn}_r{reduction}", f"{title}, width 1/{reduction}", note, gnn, reduction=reduction)
        register(row)
