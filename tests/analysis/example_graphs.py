"""Graphs for the tests of ``analysis``: random graphs with every kind of mask, and a planted one; labels for
them, and lines of tables."""

import pandas as pd
import torch

from attngraph import AttentionGraph
from attngraph.analysis.labels import Labels


def random_graph(
    seed: int = 0,
    kind: str = "cross",
    b: int = 2,
    h: int = 3,
    n: int = 5,
    m: int = 7,
    d: int = 4,
    causal: bool = False,
    padding: bool = True,
    metric: bool = True,
    softmax: bool = True,
) -> AttentionGraph:
    """A random graph in float64.

    Args:
        kind: ``"self"``, which makes m equal to n, or ``"cross"``.
        causal: ordered queries; in self-attention also a triangular mask.
        padding: the last example has padding on both sides.
        metric: the heads have metrics.
        softmax: rows sum to 1.
    """
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    is_self = kind == "self"
    m = n if is_self else m
    rows, columns = torch.ones(b, n, dtype=torch.bool), torch.ones(b, m, dtype=torch.bool)
    if padding:
        rows[-1, -1], columns[-1, -2:] = False, False
        rows[-1] = columns[-1] if is_self else rows[-1]
    visible = columns[:, None].expand(b, n, m)
    if causal and is_self:
        visible = visible & torch.ones(n, m, dtype=torch.bool).tril()
    scores = 1.5 * normal(b, h, n, m)
    if softmax:
        weight = scores.masked_fill(~visible[:, None], -torch.inf).softmax(-1).nan_to_num(0)
    else:
        weight = scores.exp()
    root = normal(h, d, d)
    gram = root @ root.mT if metric else None
    query, value = normal(b, h, n, d), normal(b, h, m, d)
    return AttentionGraph(query, value, weight, rows, visible, causal=causal, metric=gram, kind=kind)


def block_model(agreement: float, seed: int = 0, n: int = 300, m: int = 240, classes: int = 3):
    """A planted bipartite graph: the share ``agreement`` of a row's weight goes to values of its own class.

    Returns:
        The graph (its features are a class's corner plus noise), the queries' and the values' classes.
    """
    draw = torch.Generator().manual_seed(seed)
    y, z = torch.arange(n) % classes, torch.arange(m) % classes
    same = y[:, None] == z[None]
    own = torch.rand(n, m, generator=draw) < 0.3  # a sparse graph
    weight = torch.where(same, agreement * classes, (1 - agreement) * classes / (classes - 1)) * own
    weight = (weight / weight.sum(-1, keepdim=True)).double()
    corner = torch.eye(classes, dtype=torch.float64)
    query = corner[y] + 0.5 * torch.randn(n, classes, generator=draw, dtype=torch.float64)
    value = corner[z] + 0.5 * torch.randn(m, classes, generator=draw, dtype=torch.float64)
    return AttentionGraph(query[None, None], value[None, None], weight[None, None], kind="cross"), y, z


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
