"""Graphs for the tests of ``analysis``: random graphs with every kind of mask, and a planted one."""

from dataclasses import dataclass

import torch

from attngraph import AttentionGraph


@dataclass(frozen=True)
class RandomGraph:
    """What a random graph is like.

    Args:
        seed: of the numbers.
        kind: ``"self"``, which makes m equal to n, or ``"cross"``.
        b, h, n, m, d: examples, heads, queries, values and features.
        causal: ordered queries; in self-attention also a triangular mask.
        padding: the last example has padding on both sides.
        metric: the heads have metrics.
        softmax: rows sum to 1.
    """

    seed: int = 0
    kind: str = "cross"
    b: int = 2
    h: int = 3
    n: int = 5
    m: int = 7
    d: int = 4
    causal: bool = False
    padding: bool = True
    metric: bool = True
    softmax: bool = True

    def make(self) -> AttentionGraph:
        """The graph, in float64."""
        draw = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=draw, dtype=torch.float64)

        is_self = self.kind == "self"
        b, h, n, d = self.b, self.h, self.n, self.d
        m = n if is_self else self.m
        rows, columns = torch.ones(b, n, dtype=torch.bool), torch.ones(b, m, dtype=torch.bool)
        if self.padding:
            rows[-1, -1], columns[-1, -2:] = False, False
            rows[-1] = columns[-1] if is_self else rows[-1]
        visible = columns[:, None].expand(b, n, m)
        if self.causal and is_self:
            visible = visible & torch.ones(n, m, dtype=torch.bool).tril()
        scores = 1.5 * normal(b, h, n, m)
        if self.softmax:
            weight = scores.masked_fill(~visible[:, None], -torch.inf).softmax(-1).nan_to_num(0)
        else:
            weight = scores.exp()
        root = normal(h, d, d)
        return AttentionGraph(
            normal(b, h, n, d),
            normal(b, h, m, d),
            weight,
            rows,
            visible,
            causal=self.causal,
            metric=root @ root.mT if self.metric else None,
            kind=self.kind,
        )


def random_graph(seed: int = 0, **options) -> AttentionGraph:
    """See :class:`RandomGraph`."""
    return RandomGraph(seed, **options).make()


def block_model(
    agreement: float, seed: int = 0, n: int = 300, m: int = 240, classes: int = 3, noise: float = 0.5
):
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
    query = corner[y] + noise * torch.randn(n, classes, generator=draw, dtype=torch.float64)
    value = corner[z] + noise * torch.randn(m, classes, generator=draw, dtype=torch.float64)
    return AttentionGraph(query[None, None], value[None, None], weight[None, None], kind="cross"), y, z
