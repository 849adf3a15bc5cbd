r"""Label statistics.

Each function takes the sums of weights by class (:class:`Mixing`) and returns ``(b, h)`` numbers, NaN where
it is undefined. All but label informativeness, aggregation and neighbourhoods compare the classes of the two
sides, and raise a ``ValueError`` for labels whose sides have different alphabets (``shared=False``).

>>> graph = Bipartite.of(Data(edge_index=torch.tensor([[0, 1, 2, 3], [1, 2, 0, 4]]), num_nodes=5))
>>> mixing = Mixing.of(graph, Labels.same([0, 0, 0, 0, 1]))
>>> edge(mixing).item(), node_query(mixing).item()
(0.75, 0.75)

The two headline statistics also take PyG's ``edge_index``, ``y`` and ``edge_weight``, of graphs of any size.

>>> adjusted_of_edges(data.edge_index, data.y), label_informativeness_of_edges(data.edge_index, data.y)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attngraph.analysis.bipartite import Bipartite, divide, edge_weights, positive
from attngraph.analysis.labels import Labels
from attngraph.analysis.sums import ClassSums, EdgeSums


class Mixing:
    r"""Sums of weights by class, of which all label statistics are functions. Axes: b, h, nodes, K query
    classes, C value classes.

    Args:
        labels: the classes of a graph, as :meth:`attngraph.analysis.labels.Labels.on` returns them.
        at_queries, at_values: its sums, see :class:`attngraph.analysis.sums.ClassSums`.
        paired: whether both sides are the same nodes.

    Attributes:
        queries, values: ``(b, h|1, K)`` and ``(b, h|1, C)``, numbers of nodes in each class.
        sums: ``(b, h, K, C)``, :math:`\sum_{y_i = k, z_j = l} A_{ij}`.
        total: ``(b, h)``, weight of the edges whose two ends have a class.
        matrix: ``(b, h, K, C)``, :math:`E_{kl}`, the sums over the total; NaN without such edges.
    """

    def __init__(self, labels: Labels, at_queries: Tensor, at_values: Tensor, paired: bool):
        self.labels, self.paired, self.at_values = labels, paired, at_values
        self.at_queries = at_queries.to(torch.float64, memory_format=torch.contiguous_format)
        self.queries, self.values = map(numbers, (labels.query, labels.value), labels.sizes)
        self.sums = by_class(self.at_queries, labels.query, labels.sizes[0]).mT
        self.total = self.sums.sum((-1, -2))
        self.matrix = divide(self.sums, self.total[..., None, None])

    @staticmethod
    def of(graph: Bipartite, labels: Labels) -> Mixing:
        """The sums of a graph by the classes of its nodes."""
        on = labels.on(graph)
        return mixings([on], EdgeSums.of(graph, labellings=[on]).by_class, graph.paired)[0]

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


def mixings(labellings: Sequence[Labels], sums: ClassSums, paired: bool) -> list[Mixing]:
    """The sums of a graph by several classes of its nodes.

    Args:
        labellings: the classes, as :meth:`attngraph.analysis.labels.Labels.on` returns them.
        sums: the graph's, of these.
        paired: whether both sides are the same nodes.
    """
    return [
        Mixing(labels, at_queries, at_values, paired)
        for labels, at_queries, at_values in zip(labellings, sums.at_queries, sums.at_values)
    ]


def by_class(x: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Sums ``(b, h, c, classes)`` of numbers ``(b, h, c, nodes)`` over the nodes of each class.

    Args:
        x: the numbers.
        labels: the nodes' classes ``(b, h|1, nodes)``, below 0 for none.
        classes: how many there are.
    """
    places = torch.where(labels < 0, classes, labels)[:, :, None].expand_as(x)
    return x.new_zeros(*x.shape[:-1], classes + 1).scatter_add_(-1, places, x)[..., :classes]


def numbers(labels: Tensor, classes: int) -> Tensor:
    """Number of nodes of each class, ``(b, h|1, classes)``; arguments as for :func:`by_class`."""
    ones = torch.ones((), dtype=torch.float64, device=labels.device).expand(labels.shape)
    return by_class(ones[:, :, None], labels, classes)[:, :, 0]


def of_class(x: Tensor, labels: Tensor) -> Tensor:
    """Entries of ``(b, h, classes)``, or ``(b, h, c, classes)``, for the class of each node, ``(b, h,
    nodes)`` or ``(b, h, c, nodes)``; 0 for a node without a class."""
    labels = labels if x.dim() == 3 else labels[:, :, None]
    places = labels.clamp(min=0).expand(*x.shape[:-1], -1)
    return x.gather(-1, places).masked_fill(labels < 0, 0)


def edge(mixing: Mixing) -> Tensor:
    r"""Edge homophily :math:`\operatorname{tr} E`, in [0, 1]: the share of weight between nodes of one class.
    Zhu et al. 2020."""
    _shared(mixing)
    return _trace(mixing.matrix)


def node_query(mixing: Mixing) -> Tensor:
    r"""Node homophily of the queries, in [0, 1]:
    :math:`\operatorname{mean}_i \sum_j A_{ij} 1[y_i = z_j] / d_i`, over the labelled queries that have edges.
    Pei et al. 2020."""
    _shared(mixing)
    return _node(mixing.at_queries, mixing.labels.query)


def node_value(mixing: Mixing) -> Tensor:
    r"""Node homophily of the values: :math:`\operatorname{mean}_j \sum_i A_{ij} 1[y_i = z_j] / e_j`; see
    :func:`node_query`."""
    _shared(mixing)
    return _node(mixing.at_values, mixing.labels.value)


def class_insensitive(mixing: Mixing) -> Tensor:
    r"""Class-insensitive edge homophily, in [0, 1]: :math:`\frac{1}{C-1} \sum_k \max(0, E_{kk}/a_k - m_k/m)`,
    with :math:`m_k/m` the share of class k among the values and C the number of classes present on either
    side. Lim et al. 2021."""
    _shared(mixing)
    own = divide(mixing.matrix.diagonal(dim1=-2, dim2=-1), mixing.query_marginal).nan_to_num(0)
    prior = divide(mixing.values, mixing.values.sum(-1, keepdim=True))
    classes = ((mixing.queries > 0) | (mixing.values > 0)).sum(-1)
    excess = (own - prior).clamp(min=0).sum(-1)
    return torch.where(mixing.total > 0, divide(excess, (classes - 1).to(excess.dtype)), torch.nan)


def adjusted(mixing: Mixing) -> Tensor:
    r"""Adjusted homophily :math:`\frac{\operatorname{tr} E - \sum_k a_k b_k}{1 - \sum_k a_k b_k}`, at most 1,
    0 for weights that do not depend on classes beyond the two sides' own marginals. It is Cohen's
    :math:`\kappa` of the ends of the edges, and, in undirected graphs, the assortativity coefficient.
    Platonov et al. 2023."""
    _shared(mixing)
    chance = (mixing.query_marginal * mixing.value_marginal).sum(-1)
    rest = 1 - chance
    return divide(_trace(mixing.matrix) - chance, torch.where(rest > 1e-12, rest, torch.zeros_like(rest)))


def label_informativeness(mixing: Mixing) -> Tensor:
    r"""Label informativeness :math:`I(E)/H(a)`, in [0, 1]: the share of the uncertainty about a query's class
    that the class at the other end of an edge removes. Defined for different alphabets on the two sides too.
    Platonov et al. 2023."""
    matrix, a, b = mixing.matrix, mixing.query_marginal, mixing.value_marginal
    entropy = -torch.special.xlogy(a, a).sum(-1)
    log_b = torch.special.xlogy(b, b).sum(-1)
    information = torch.special.xlogy(matrix, matrix).sum((-1, -2)) + entropy - log_b
    return divide(information.clamp(min=0), torch.where(entropy > 1e-12, entropy, torch.zeros_like(entropy)))


def adjusted_of_edges(
    edge_index: Tensor, y: Tensor | tuple[Tensor, Tensor], edge_weight: Tensor | None = None
) -> float:
    """:func:`adjusted` homophily of a PyG graph, without an array of all pairs of nodes.

    Args:
        edge_index: ``(2, e)``, source (value) and target (query) of each edge; an undirected graph has both
            directions.
        y: the class of each node, integers ``(nodes,)``; for two kinds of nodes a pair, the classes of the
            sources ``(m,)`` and of the targets ``(n,)``, in the order of PyG's ``x``. Equal numbers are the
            same class. Edges of a node of class -1 do not count.
        edge_weight: ``(e,)``, at least 0. Default: 1 each.

    Returns:
        The number; NaN without edges, or where all edges join nodes of one class.

    Raises:
        ValueError: classes that are not vectors of integers or fewer than the nodes that edges name, or
            weights that are negative, not finite or not one per edge.
    """
    return adjusted(_between_classes(edge_index, y, edge_weight)).item()


def label_informativeness_of_edges(
    edge_index: Tensor, y: Tensor | tuple[Tensor, Tensor], edge_weight: Tensor | None = None
) -> float:
    """:func:`label_informativeness` of a PyG graph: how much the class of an edge's source says about that of
    its target. Arguments and errors are those of :func:`adjusted_of_edges`; two kinds of nodes may have
    different alphabets of classes."""
    return label_informativeness(_between_classes(edge_index, y, edge_weight)).item()


def _between_classes(
    edge_index: Tensor, y: Tensor | tuple[Tensor, Tensor], edge_weight: Tensor | None
) -> Mixing:
    """The sums of weights of a graph in which each class is one node."""
    sides = (y, y) if isinstance(y, Tensor) else y
    for labels, nodes in zip(sides, edge_index, strict=True):
        if labels.is_floating_point() or labels.dim() != 1:
            raise ValueError(
                f"y must hold integers (nodes,), got {labels.dtype} {tuple(labels.shape)}: pass "
                "y.flatten().long()"
            )
        if len(nodes) and int(nodes.max()) >= len(labels):
            raise ValueError(f"y has {len(labels)} classes, and edge_index names node {int(nodes.max())}")
    value, query = (labels[nodes] for labels, nodes in zip(sides, edge_index))
    weight = edge_weights(edge_weight, edge_index[0]).double()
    known = (value >= 0) & (query >= 0)
    names, number = torch.unique(torch.stack([query, value])[:, known], return_inverse=True)
    sums = weight.new_zeros(len(names), len(names)).index_put(tuple(number), weight[known], accumulate=True)
    classes = torch.arange(len(names), device=weight.device)[None]
    graph = Bipartite(sums[None, None], torch.ones_like(sums, dtype=torch.bool)[None])
    return Mixing.of(graph, Labels(classes, classes))


def aggregation(mixing: Mixing) -> Tensor:
    r"""Aggregation homophily, in [0, 1]: with :math:`O = A Z` and :math:`Z` the one-hot code of the values'
    labels, the share of queries i whose mean similarity :math:`O_i O_{i'}^\top` is higher to the other
    queries of their class than to those of other classes. Luan et al. 2022.

    A tie counts one half and a query is not compared with itself, so uniform attention without a mask has
    0.5. Queries without edges or without another query of their class, and graphs of one class, do not count.
    """
    out, y = mixing.at_queries, _with_edges(mixing)
    count = numbers(y, mixing.labels.sizes[0])  # (b, h, K)
    sums = mixing.sums.mT  # (b, h, C, K), of queries with edges, since those of others are 0
    within = (out * of_class(sums, y)).sum(-2)
    own = within - out.square().sum(-2)
    other = (out * sums.sum(-1, keepdim=True)).sum(-2) - within
    size = of_class(count, y)
    others = count.sum(-1, keepdim=True) - size
    within, between = divide(own, size - 1), divide(other, others)
    tie = (within - between).abs() <= 1e-6 * (within.abs() + between.abs())
    wins = torch.where(tie, 0.5, (within > between).double())
    counted = (size > 1) & (others > 0)
    return divide(torch.where(counted, wins, 0).sum(-1), counted.sum(-1).double())


def neighbourhood_similarity(mixing: Mixing) -> Tensor:
    r"""Cross-class neighbourhood similarity, ``(b, h, K, K)``, in [0, 1]: mean cosine of the label histograms
    :math:`(A Z)_i` of two different queries, one of class k and one of class k'. Ma et al. 2022 (whose means
    count a node's similarity with itself; that vanishes in large graphs and rules in small ones)."""
    y, classes = _with_edges(mixing), mixing.labels.sizes[0]
    length = mixing.at_queries.square().sum(-2, keepdim=True).sqrt()
    sums, count = by_class(mixing.at_queries / positive(length), y, classes), numbers(y, classes)
    products = sums.mT @ sums - torch.diag_embed(count)  # a node with itself: 1
    pairs = count[..., :, None] * count[..., None, :] - torch.diag_embed(count)
    return divide(products, pairs)


def neighbourhood_contrast(mixing: Mixing) -> Tensor:
    """:func:`neighbourhood_similarity` in one number, in [-1, 1]: its mean over pairs of one class minus its
    mean over pairs of different classes. 0 where neighbourhoods do not depend on classes."""
    similarity = neighbourhood_similarity(mixing)
    same = torch.eye(similarity.shape[-1], dtype=torch.bool, device=similarity.device)
    within, between = (similarity.masked_fill(mask, torch.nan).nanmean((-1, -2)) for mask in (~same, same))
    return within - between


#: Statistics that compare the classes of the two sides, by name.
SHARED = {
    "edge": edge,
    "node_query": node_query,
    "node_value": node_value,
    "class_insensitive": class_insensitive,
    "adjusted": adjusted,
}
#: Statistics of any labels, by name.
ANY = {
    "label_informativeness": label_informativeness,
    "aggregation": aggregation,
    "neighbourhood_contrast": neighbourhood_contrast,
}


def label_statistics(mixing: Mixing) -> dict[str, Tensor]:
    """The statistics of :data:`~attngraph.analysis.homophily.SHARED` and
    :data:`~attngraph.analysis.homophily.ANY` that are defined for these labels."""
    return {
        name: function(mixing) for name, function in ((SHARED if mixing.labels.shared else {}) | ANY).items()
    }


FINE, EMPTY, ONE_CLASS, ROLES, NO_PAIR, ALL_PAIRS, ALL_DIFFER = range(7)
#: Why label statistics of a graph say nothing, by number; 0 where they say something.
REASONS = (
    "",
    "no edges between labelled nodes",
    "one side has one class only",
    "role labels: the sides share no class",
    "no visible pair of equal labels",
    "all visible pairs have equal labels",
    "all labels differ: a permutation changes nothing",
)


def degenerate(mixing: Mixing, uniform: Mixing | None = None) -> Tensor:
    """Why label statistics say nothing about the weights of a graph: an index of
    :data:`~attngraph.analysis.homophily.REASONS`, ``(b, h)``, 0 where they say something.

    Args:
        mixing: of the graph.
        uniform: of uniform attention with the same mask and labels, whose edges are all visible pairs; for
            statistics that compare the classes of the two sides.
    """
    reason = torch.full_like(mixing.total, FINE, dtype=torch.long)
    queries, values = mixing.counts()
    single = (queries == 1) | (values == 1)
    apart = torch.zeros_like(single)
    if mixing.labels.shared:
        apart = ~((mixing.queries > 0) & (mixing.values > 0)).any(-1)
    if uniform is None or mixing.paired:  # across two sides a permutation changes which labels are equal
        reason = torch.where(_all_differ(mixing), ALL_DIFFER, reason)
    if uniform is not None:
        same = edge(uniform)
        reason = torch.where(same <= 1e-9, NO_PAIR, reason)
        reason = torch.where(same >= 1 - 1e-9, ALL_PAIRS, reason)
        reason = torch.where(apart, ROLES, reason)
    reason = torch.where(single, torch.where(apart, ROLES, ONE_CLASS), reason)
    return torch.where(mixing.total > 0, reason, EMPTY)


def _all_differ(mixing: Mixing) -> Tensor:
    """Whether a permutation of the classes only renames them, ``(b, h|1)``."""
    labels = mixing.labels
    if mixing.paired and labels.shared:
        both = torch.where(labels.query == labels.value, labels.query, -1)
        nodes = mixing.queries + mixing.values - numbers(both, labels.sizes[0])
        return (nodes <= 1).all(-1)
    return (mixing.values <= 1).all(-1) & (not mixing.paired or (mixing.queries <= 1).all(-1))


def _with_edges(mixing: Mixing) -> Tensor:
    """The classes of the queries that have edges, ``(b, h, n)``; -1 for others."""
    return torch.where(mixing.at_queries.sum(-2) > 0, mixing.labels.query, -1)


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def _node(sums: Tensor, labels: Tensor) -> Tensor:
    places = labels.clamp(min=0).expand(-1, sums.shape[1], -1)
    own = sums.gather(-2, places[:, :, None])[:, :, 0].double()
    total = sums.sum(-2, dtype=torch.float64)
    counted = (labels >= 0) & (total > 0)
    share = torch.where(counted, divide(own, total), 0)
    return divide(share.sum(-1), counted.sum(-1).to(share.dtype))


def _shared(mixing: Mixing) -> None:
    if not mixing.labels.shared:
        raise ValueError(
            "the two sides' labels have different alphabets, so no label can be equal to another: use "
            "label_informativeness, or labels with shared=True"
        )
