"""The rows of the planted control: schemes with their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters import SCHEMES, Scheme


@dataclass(frozen=True)
class Row:
    """A scheme with its arguments.

    Args:
        title: for people.
        scheme: its name in ``adapters.SCHEMES``.
        arguments: where they differ from the scheme's defaults.
        uses_distance: whether the weight of an edge depends on the distance between its own two nodes.
    """

    title: str
    scheme: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    uses_distance: bool = False

    def make(self) -> Scheme:
        """A new scheme."""
        return SCHEMES[self.scheme](**self.arguments)


ROWS = {
    "gcn": Row("GCN", "gcn"),
    "appnp": Row("APPNP", "appnp"),
    "gcnii": Row("GCNII", "gcnii"),
    "residual": Row("Residual alone", "residual"),
    "p2": Row("p = 2", "pgnn", {"p": 2, "learn_p": False}),
    "tempering": Row("Tempering", "tempering"),
    "placebo": Row("Rotated queries", "rotated"),  # its name in earlier runs
    "pgnn": Row("pGNN, μ 0.1", "pgnn", uses_distance=True),
    "pgnn_mu1": Row("pGNN, μ 1", "pgnn", {"mu": 1}, uses_distance=True),
}
#: Rows that know nothing of distances; the best of them is what pGNN is compared with. Rotated
#: queries are none of them: they know lengths, degrees and distances of another space.
WITHOUT = tuple(name for name, row in ROWS.items() if not row.uses_distance and name != "placebo")
