"""Single lines of heterophily tables, and labels for their graphs."""

import pandas as pd
import torch

from analysis.labels import Labels


def line(table: pd.DataFrame, statistic: str, head: int | str = "all", **columns) -> pd.Series:
    """The one line of a table with these values."""
    chosen = table[(table.statistic == statistic) & (table["head"] == head)]
    for column, value in columns.items():
        chosen = chosen[chosen[column] == value]
    assert len(chosen) == 1
    return chosen.iloc[0]


def labels_for(graph) -> Labels:
    b, _, n, m, _ = graph.shape
    return Labels((torch.arange(n) % 3).expand(b, n), (torch.arange(m) % 2).expand(b, m))
