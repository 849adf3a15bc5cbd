"""What learning p does: pGNN with p fixed, beside pGNN's runs with the same seeds."""

from experiments.methods.graph_adapter import GraphAdapter
from experiments.methods.method import ATTRIBUTION, register

register(
    GraphAdapter(
        name="fixed_p",
        title="Fixed p",
        group=ATTRIBUTION,
        gnn="pgnn",
        fixed={"learn_p": False},
        follows="pgnn",
        note="pGNN with p kept at its starting value",
    )
)
register(
    GraphAdapter(
        name="learned_p",
        title="Learned p",
        group=ATTRIBUTION,
        gnn="pgnn",
        follows="pgnn",
        repeats="pgnn",
        note="the pGNN row's runs with the seeds of these rows",
    )
)
