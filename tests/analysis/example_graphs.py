"""Graphs for the tests of `analysis`: random ones with every kind of mask, and a planted one."""

import torch

from attngraph import AttentionGraph


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
    """float64; the last example has padding on both sides; causal self-attention has a triangular mask."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    m = n if kind == "self" else m
    rows, columns = torch.ones(b, n, dtype=torch.bool), torch.ones(b, m, dtype=torch.bool)
    if padding:
        rows[-1, -1], columns[-1, -2:] = False, False
        rows[-1] = columns[-1] if kind == "self" else rows[-1]
    visible = columns[:, None].expand(b, n, m)
    if causal and kind == "self":
        visible = visible & torch.ones(n, m, dtype=torch.bool).tril()
    scores = 1.5 * normal(b, h, n, m)
    weight = (
        scores.masked_fill(~visible[:, None], -torch.inf).softmax(-1).nan_to_num(0)
        if softmax
        else scores.exp()
    )
    root = normal(h, d, d)
    return AttentionGraph(
        normal(b, h, n, d),
        normal(b, h, m, d),
        weight,
        rows,
        visible,
        causal=causal,
        metric=root @ root.mT if metric else None,
        kind=kind,
    )


def block_model(
    agreement: float, seed: int = 0, n: int = 300, m: int = 240, classes: int = 3, noise: float = 0.5
):
    """A planted bipartite graph: rows whose weight goes to values of the row's own class with probability
    ``agreement``.

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
    query = corner[y] + noise * torch.randn(n, classes, generator=draw, dtype=torch.float64)
    value = corner[z] + noise * torch.randn(m, classes, generator=draw, dtype=torch.float64)
    return AttentionGraph(query[None, None], value[None, None], weight[None, None], kind="cross"), y, z
