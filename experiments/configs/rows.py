"""The rows of the ablation table, and the settings that were chosen for them on validation data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from adapters.config import AdapterConfig
from adapters.scheme import SCHEMES
from attngraph.errors import UserError
from experiments.methods import Adapter, Frozen, FullFineTuning, Majority, Method
from experiments.report.tables import ADAPTERS, ATTRIBUTION, REFERENCE

SETTINGS_FILE = Path(__file__).with_name("settings.json")
REDUCTION = 4  # bottlenecks of width 32 on a model of width 128


@dataclass(frozen=True)
class RowSpec:
    """One row.

    Args:
        title: as printed.
        group: block of the table.
        gnn: the scheme, for rows that train an adapter.
        gnn_args: what sets the row apart from the scheme's chosen arguments.
        follows: the row whose chosen settings it uses.
        method: for rows without an adapter.
        trains: whether there is anything to train.
        note: printed under the table.
    """

    title: str
    group: str
    gnn: str | None = None
    gnn_args: dict[str, Any] = field(default_factory=dict)
    follows: str | None = None
    method: Method | None = None
    trains: bool = True
    note: str = ""


ROWS: dict[str, RowSpec] = {
    "gcn": RowSpec("GCN", ADAPTERS, "gcn"),
    "appnp": RowSpec("APPNP", ADAPTERS, "appnp"),
    "gcnii": RowSpec("GCNII", ADAPTERS, "gcnii"),
    "pgnn": RowSpec("pGNN", ADAPTERS, "pgnn"),
    "rate": RowSpec(
        "Learning rate alone",
        ATTRIBUTION,
        "gcn",
        follows="pgnn",
        note="GCN, the vanilla adapter, with pGNN's learning rates",
    ),
    "p2": RowSpec(
        "Normalisation alone (p = 2)",
        ATTRIBUTION,
        "pgnn",
        {"p": 2.0, "mu": 0.0, "learn_p": False},
        follows="pgnn",
        note="pGNN with p = 2 and no residual: only the degrees of the graph act",
    ),
    "residual": RowSpec(
        "Residual alone",
        ATTRIBUTION,
        "residual",
        follows="pgnn",
        note="attention output plus a share of the query's own features, no degrees, no re-weighting",
    ),
    "fixed_p": RowSpec(
        "Fixed p",
        ATTRIBUTION,
        "pgnn",
        {"learn_p": False},
        follows="pgnn",
        note="pGNN with p kept at its starting value",
    ),
    "frozen": RowSpec("Frozen model", REFERENCE, method=Frozen(), trains=False),
    "full": RowSpec("Full fine-tuning", REFERENCE, method=FullFineTuning()),
    "text": RowSpec(
        "Text only",
        REFERENCE,
        method=FullFineTuning(text_only=True),
        note="full fine-tuning of the text decoder with the image states zeroed",
    ),
    "majority": RowSpec(
        "Majority class",
        REFERENCE,
        method=Majority(),
        trains=False,
        note="the most frequent training answer for every input",
    ),
}
GNNS = ("gcn", "appnp", "gcnii", "pgnn")


def row_of(key: str) -> RowSpec:
    """The row of a key; a scheme of one's own gets a row without further ado.

    Raises:
        UserError: neither a row nor a scheme.
    """
    if key in ROWS:
        return ROWS[key]
    if key in SCHEMES:
        return RowSpec(key, ADAPTERS, key, follows="gcn")
    raise UserError(f"unknown GNN {key!r}: choose from {', '.join(dict.fromkeys([*GNNS, *SCHEMES]))}")


@cache
def chosen(file: Path = SETTINGS_FILE) -> dict:
    """The settings chosen on validation data by ``attngraph search``."""
    try:
        found = json.loads(file.read_text())
        missing = sorted({"join", "gnn_args", "learning_rates"} - set(found)) or sorted(
            {"full", "text", *GNNS} - set(found["learning_rates"])
        )
        if missing:
            raise ValueError(f"{missing[0]} is missing")
        return found
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read ({error}): restore it, or run attngraph search and put the settings.json that "
            "it writes in its place"
        ) from None


def method_of(key: str, join: str | None = None) -> Method:
    """The method of a row with its chosen settings."""
    row = row_of(key)
    if row.method is not None:
        return row.method
    leader = row.follows or key
    found = chosen()["gnn_args"].get(leader, {})
    base = found if row.gnn == leader else {}  # another scheme has arguments of its own
    if key == "residual":  # pGNN's β at its start where the weights that p makes of a query's edges sum to 1
        share = 2 * found["mu"] / found["p"]
        base = {"alpha": share / (1 + share)}
    return Adapter(
        AdapterConfig(
            gnn=row.gnn, gnn_args={**base, **row.gnn_args}, join=join or chosen()["join"], reduction=REDUCTION
        )
    )


def learning_rate_of(key: str, task: str) -> float:
    """The chosen peak learning rate of a row on a task."""
    rates = chosen()["learning_rates"]
    return rates[row_of(key).follows or key][task]
