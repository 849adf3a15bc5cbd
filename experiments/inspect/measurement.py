"""The graphs of a source, labelled and measured, as they are and as adapters weigh them."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

import pandas as pd

from analysis.heterophily import Heterophily
from experiments.inspect.labeller import Labeller
from experiments.inspect.regions import Regions
from experiments.inspect.source import Source
from experiments.progress import Progress

BEFORE, AFTER = "before", "after"  # training


def measure(
    source: Source, labeller: Labeller, regions: Regions, statistics: Heterophily, state: str = ""
) -> None:
    """Add the graphs of a source to the statistics: M, and M̄ where the layer has an adapter.

    Args:
        source: what to measure.
        labeller: gives the nodes' classes.
        regions: gives the queries' relevant values.
        statistics: gets every graph.
        state: of training, which goes into the weights' names.
    """
    suffix = f" {state}" if state else ""
    batches = ceil(len(source) / source.batch_size)
    for batch, graphs in Progress(source.graphs(), f"measuring{suffix}", batches, leave=False):
        for name, graph in graphs.items():
            labels, relevant = labeller(batch, name, graph), regions(batch, name, graph)
            statistics.add(name, graph, labels, f"M{suffix}", relevant)
            reweighted = source.reweighted(name, graph)
            if reweighted is not None:
                statistics.add(name, reweighted, labels, f"M̄{suffix}", relevant)


def differences(states: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The paired differences of the table: what the adapter does to M, and what training does."""
    pairs = {f"M̄ − M {state}".rstrip(): (f"M̄ {state}".rstrip(), f"M {state}".rstrip()) for state in states}
    if {BEFORE, AFTER} <= set(states):
        for weights in ("M", "M̄"):
            pairs[f"{weights} {AFTER} − {BEFORE}"] = (f"{weights} {AFTER}", f"{weights} {BEFORE}")
    return pairs


def with_own_heads(table: pd.DataFrame, heads: list[int] | None) -> pd.DataFrame:
    """The table with the chosen heads' own numbers."""
    if heads is None:
        return table
    return table.assign(head=[head if head == "all" else heads[head] for head in table["head"]])
