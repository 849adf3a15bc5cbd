"""The PyG layer that moves messages along the edges of an attention graph."""

from torch import Tensor
from torch_geometric.nn import MessagePassing


class WeightedSum(MessagePassing):
    r"""Sum of weighted messages on a bipartite graph,

    .. math:: y_t = \sum_{(s, t) \in E} w_{st} \, x_s .

    Shapes:
        - x ``(sources, d)``, edge_index ``(2, e)`` with rows source and target, edge_weight ``(e,)``
        - output ``(targets, d)``
    """

    def __init__(self):
        # PyG compiles a class's propagate and keeps the one before, which knows masks of edges; of a subclass
        # it would take the parent's compiled one for that
        if "propagate" not in vars(type(self)):
            type(self).propagate = MessagePassing.propagate
        super().__init__(aggr="sum")

    def weighted_sum(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor, targets: int) -> Tensor:
        """The sums."""
        return self.propagate(edge_index, x=(x, None), edge_weight=edge_weight, size=(x.shape[0], targets))

    def message(self, x_j: Tensor, edge_weight: Tensor) -> Tensor:
        return edge_weight[:, None] * x_j
