"""Sums of weights by class: all label statistics are functions of them."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from analysis.bipartite import Bipartite, divide
from analysis.labels import Labels, one_hot


class Mixing:
    r"""Weights between classes. Axes: b, h, nodes, K query classes, C value classes.

    Args:
        graph: the graph.
        labels: its classes, as :meth:`analysis.labels.Labels.on` returns them.

    Attributes:
        labels: the labels.
        at_queries: ``(b, h, n, C)``, :math:`\sum_j A_{ij} 1[z_j = l]`.
        queries, values: ``(b, h|1, K)`` and ``(b, h|1, C)``, numbers of nodes in each class.
        paired: whether both sides are the same nodes.
        total: ``(b, h)``, weight of the edges whose two ends have a class.
        matrix: ``(b, h, K, C)``, :math:`E_{kl} = \sum_{y_i = k, z_j = l} A_{ij} / \text{total}`; NaN without
            such edges.
    """

    def __init__(self, graph: Bipartite, labels: Labels):
        sizes = [int(side.max()) + 1 if side.numel() else 0 for side in (labels.query, labels.value)]
        sizes = [max(1, *sizes)] * 2 if labels.shared else [max(1, size) for size in sizes]
        self.labels, self.paired, self._weight = labels, graph.paired, graph.weight
        self.y, self.z = (
            one_hot(side, size, graph.weight.dtype) for side, size in zip((labels.query, labels.value), sizes)
        )
        self.queries, self.values = self.y.sum(-2).double(), self.z.sum(-2).double()
        self.at_queries = graph.weight @ self.z
        sums = (self.y.mT @ self.at_queries).double()
        self.total = sums.sum((-1, -2))
        self.matrix = divide(sums, self.total[..., None, None])

    @cached_property
    def at_values(self) -> Tensor:
        r"""``(b, h, m, K)``, :math:`\sum_i A_{ij} 1[y_i = k]`."""
        return self._weight.mT @ self.y

    @property
    def query_marginal(self) -> Tensor:
        r""":math:`a_k = \sum_l E_{kl}`, ``(b, h, K)``."""
        return self.matrix.sum(-1)

    @property
    def value_marginal(self) -> Tensor:
        r""":math:`b_l = \sum_k E_{kl}`, ``(b, h, C)``."""
        return self.matrix.sum(-2)

    def counts(self) -> tuple[Tensor, Tensor]:
        """The numbers of classes among the queries and among the values, each ``(b, h|1)``."""
        return (self.queries > 0).sum(-1), (self.values > 0).sum(-1)
