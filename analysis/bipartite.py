"""A weighted bipartite graph with masks, the input of all statistics.

Axes: ``b`` examples, ``h`` heads, ``n`` queries, ``m`` values, ``d`` features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor
from torch_geometric.data import Data, HeteroData

from attngraph import AttentionGraph
from attngraph.edges import rsqrt, smallest_weight
from attngraph.sparsify import Totals
from attngraph.streaming import EDGES, Streamed, Sweep, strips, sweep


@dataclass(frozen=True, eq=False)
class Bipartite:
    r"""Queries (rows) and values (columns), joined by edges of weight :math:`A_{ij} \ge 0`.

    Args:
        weight: ``(b, h, n, m)``, exactly 0 at edges that are not visible. Rows need not sum to 1.
        visible: ``(b, n, m)`` bool, which edges may exist.
        query: ``(b, h, n, d)`` features of the queries, in a Euclidean space; None in a graph without
            features.
        value: ``(b, h, m, d)`` features of the values, in the same space.
        paired: query i and value i are the same node (self-attention, plain graphs), so n = m.
    """

    weight: Tensor
    visible: Tensor
    query: Tensor | None = None
    value: Tensor | None = None
    paired: bool = False

    @staticmethod
    def of(graph: AnyGraph) -> Bipartite:
        r"""A view of an attention graph, or of a plain PyG graph.

        Features of an attention graph are mapped by a factor :math:`L` of its metric :math:`G = L L^\top`, so
        that products and distances are those after :math:`W_o`. In a plain ``Data`` an edge goes from source
        (value) to target (query), as messages do, and every node is on both sides, so an undirected graph
        has a symmetric weight. ``HeteroData`` must hold queries and values
        (:func:`attngraph.convert.to_hetero`), or one edge type. Weights come from ``edge_weight`` (default
        1); parallel edges add up. The array of weights is dense, for graphs of up to about ten thousand
        nodes.

        Raises:
            ValueError: a step of cached decoding, a graph of a stream that keeps only some edges, a graph
                without edges to read, several edge types, weights that are negative, not finite or not one
                number per edge, or features that are not one row per node.
        """
        if isinstance(graph, Bipartite):
            return graph
        graph = restored(graph)
        return _of_attention(graph) if isinstance(graph, AttentionGraph) else _of_pyg(graph)

    @property
    def heads(self) -> int:
        """The number of heads ``h``."""
        return self.weight.shape[1]

    @cached_property
    def seen(self) -> Tensor:
        """Number of values that each query may see, ``(b, n)``."""
        return self.visible.sum(2)

    @cached_property
    def seen_by(self) -> Tensor:
        """Number of queries that may see each value, ``(b, m)``."""
        return self.visible.sum(1)

    @property
    def rows(self) -> Tensor:
        """Queries that may have edges, ``(b, n)``."""
        return self.seen > 0

    @property
    def columns(self) -> Tensor:
        """Values that may have edges, ``(b, m)``."""
        return self.seen_by > 0

    @cached_property
    def query_degree(self) -> Tensor:
        r""":math:`d_i = \sum_j A_{ij}`, ``(b, h, n)``."""
        return self.weight.sum(-1)

    @cached_property
    def value_degree(self) -> Tensor:
        r""":math:`e_j = \sum_i A_{ij}`, ``(b, h, m)``, over all queries, also in causal graphs."""
        return self.weight.sum(-2)

    @property
    def features(self) -> tuple[Tensor, Tensor]:
        """Features of the queries ``(b, h, n, d)`` and of the values ``(b, h, m, d)``.

        Raises:
            ValueError: the graph has no features.
        """
        if self.query is None or self.value is None:
            raise ValueError("the graph has no features: pass nodes x of the same width on both sides")
        return self.query, self.value

    def without_self_loops(self) -> Bipartite:
        """The graph without the edges between node i and node i.

        Raises:
            ValueError: the two sides are not the same nodes.
        """
        return replace(self.hiding_self_loops(), weight=off_diagonal(self.weight))

    def hiding_self_loops(self) -> Bipartite:
        """The same graph with a mask that hides edges between node i and node i, for functions that use masks
        only: the weights still include these edges.

        Raises:
            ValueError: the two sides are not the same nodes.
        """
        if not self.paired:
            raise ValueError("only a graph whose two sides are the same nodes (paired) has self-loops")
        hidden = not self.visible.diagonal(dim1=-2, dim2=-1).any()
        return self if hidden else replace(self, visible=off_diagonal(self.visible))

    def symmetric(self) -> Tensor:
        r""":math:`S_{ij} = A_{ij}/\sqrt{d_i e_j}`, ``(b, h, n, m)``; 0 at nodes without edges."""
        return self.weight * rsqrt(self.query_degree)[..., None] * rsqrt(self.value_degree)[..., None, :]


@dataclass(frozen=True, eq=False)
class Stream(Bipartite):
    """A streamed attention graph (:class:`attngraph.streaming.Streamed`). There is no array of all edges:
    where weights are needed they come in strips of queries, and ``weight`` is NaN, in no memory.

    Args:
        streamed: where the weights come from.
        loops: self-loops are edges.
        even: the weights are those of uniform attention with the same mask and query degrees.
    """

    streamed: Streamed = None  # type: ignore[assignment]  # follows fields with defaults
    loops: bool = True
    even: bool = False

    @cached_property
    def swept(self) -> Sweep:
        """Sums over its edges, from a sweep: degrees, entropies, and what needs logarithms of the weights."""
        return sweep(self.streamed.scores, logs=True, self_loops=self.loops)

    @property
    def totals(self) -> Totals:
        """Degrees and entropies."""
        return self.streamed.totals if self.loops else self.swept.totals

    def strips(self) -> Iterator[tuple[slice, Tensor]]:
        """The weights, some queries at a time: which, and ``(b, h, rows, m)``."""
        if self.even:
            each = self.query_degree / self.seen.clamp(min=1)[:, None]
            for rows, visible in self.visible_strips():
                yield rows, visible[:, None] * each[:, :, rows, None]
            return
        for rows, weight in strips(self.streamed.scores):
            if not self.loops:
                weight.diagonal(rows.start, -2, -1).zero_()
            yield rows, weight

    def visible_strips(self) -> Iterator[tuple[slice, Tensor]]:
        """Which edges may exist, some queries at a time, ``(b, rows, m)``."""
        b, h, n, m = self.weight.shape
        size = max(1, EDGES // max(1, b * h * m))
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            visible = self.streamed.scores.visible(rows)
            if visible is None:
                visible = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.weight.device)
            visible = visible.expand(b, 1, rows.stop - start, m)[:, 0].clone()
            if not self.loops:
                visible.diagonal(start, -2, -1).zero_()
            yield rows, visible

    @cached_property
    def _counts(self) -> tuple[Tensor, Tensor]:
        b, _, _, m = self.weight.shape
        seen, seen_by = [], torch.zeros(b, m, dtype=torch.long, device=self.weight.device)
        for _, visible in self.visible_strips():
            seen.append(visible.sum(2))
            seen_by += visible.sum(1)
        return torch.cat(seen, 1), seen_by

    @property
    def seen(self) -> Tensor:
        """Number of values that each query may see, ``(b, n)``."""
        return self._counts[0]

    @property
    def seen_by(self) -> Tensor:
        """Number of queries that may see each value, ``(b, m)``."""
        return self._counts[1]

    @cached_property
    def rows(self) -> Tensor:
        return self.seen > 0

    @cached_property
    def columns(self) -> Tensor:
        return self.seen_by > 0

    @cached_property
    def query_degree(self) -> Tensor:
        return self.totals.query_degree

    @cached_property
    def value_degree(self) -> Tensor:
        if self.even:
            degree = torch.zeros(
                self.totals.value_degree.shape, dtype=torch.float64, device=self.weight.device
            )
            for _, weight in self.strips():
                degree += weight.sum(-2, dtype=torch.float64)
            return degree.to(self.weight.dtype)
        return self.totals.value_degree

    def without_self_loops(self) -> Stream:
        return self.hiding_self_loops()

    def hiding_self_loops(self) -> Stream:
        if not self.paired:
            raise ValueError("only a graph whose two sides are the same nodes (paired) has self-loops")
        return replace(self, loops=False)


AnyGraph: TypeAlias = AttentionGraph | Data | HeteroData | Bipartite


def restored(graph: AnyGraph) -> AnyGraph:
    """The attention graph of a PyG graph that was exported from one; any other graph unchanged."""
    if (isinstance(graph, Data) and "is_value" in graph) or (
        isinstance(graph, HeteroData) and {"query", "value"} <= set(graph.node_types)
    ):
        return AttentionGraph.from_pyg(graph)
    return graph


def visible_edges(graph: AttentionGraph) -> Tensor:
    """Which edges of an attention graph may exist, bool ``(b, n, m)``."""
    b, _, n, m, _ = graph.shape
    if graph.visible is None:
        return torch.ones(b, n, m, dtype=torch.bool, device=graph.weight.device)
    return graph.visible.expand(b, n, m)


def off_diagonal(edges: Tensor) -> Tensor:
    """A copy of ``(..., n, n)`` with 0 on the diagonal."""
    edges = edges.clone()
    edges.diagonal(dim1=-2, dim2=-1).zero_()
    return edges


def joined(degree: Tensor) -> Tensor:
    """Nodes with edges: those whose degree is large enough to have a finite inverse."""
    return degree > smallest_weight(degree.dtype)


def positive(x: Tensor) -> Tensor:
    """``x`` with 1 in place of 0: a safe divisor of numerators that are 0 there."""
    return torch.where(x > 0, x, torch.ones_like(x))


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient; NaN (undefined) where the denominator is not positive."""
    return torch.where(denominator > 0, numerator / denominator, torch.nan)


def factor(metric: Tensor) -> Tensor:
    r"""A factor :math:`L` with :math:`L L^\top = G`.

    Args:
        metric: :math:`G`, ``(h, d, d)``, positive semi-definite, possibly singular.
    """
    values, vectors = torch.linalg.eigh(metric.double())
    return (vectors * values.clamp(min=0).sqrt()[..., None, :]).to(metric.dtype)


def edge_weights(weight: Tensor | None, source: Tensor, x: Tensor | None = None) -> Tensor:
    """Weights of the edges ``(edges,)``, 1 without any, in float64 if the weights (or the features) are.

    Raises:
        ValueError: weights that are negative, not finite or not one number per edge.
    """
    reference = weight if weight is not None and weight.is_floating_point() else x
    dtype = torch.float64 if reference is not None and reference.dtype == torch.float64 else torch.float32
    if weight is None:
        return torch.ones(len(source), dtype=dtype, device=source.device)
    if weight.shape != source.shape:
        raise ValueError(
            f"edge_weight must have shape ({len(source)},), one number per edge, got {tuple(weight.shape)}: "
            "pass edge_weight.flatten()"
        )
    weight = weight.to(dtype)
    if not weight.isfinite().all():
        raise ValueError("edge_weight must be finite: it holds NaN or infinity")
    if (weight < 0).any():
        raise ValueError("edge_weight must not be negative")
    return weight


def _of_attention(graph: AttentionGraph) -> Bipartite:
    if graph.past_degree is not None:
        raise ValueError(
            "the graph is a step of cached decoding and lacks the earlier queries: read the whole text in "
            "one forward pass"
        )
    b, h, n, m, _ = graph.shape
    streamed = graph.stored if isinstance(graph.stored, Streamed) else None
    if streamed is None and graph.totals is not None:
        raise ValueError(
            "the graph keeps only the heaviest edges of a stream: read the model with stream=True and "
            "without top_k, or with top_k and without stream to measure these edges alone"
        )
    weight = graph.weight if streamed is None else streamed.totals.value_degree
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    weight = weight.to(dtype)
    if not weight.sum().isfinite():
        raise ValueError("the graph's weights must be finite: they hold NaN or infinity")
    query, value = graph.query.to(dtype), graph.value.to(dtype)
    if graph.metric is not None:
        root = factor(graph.metric).to(dtype)
        query, value = query @ root, value @ root
    paired = graph.kind == "self" and n == m
    if streamed is None:
        return Bipartite(weight, visible_edges(graph), query, value, paired)
    nothing = weight.new_full((), torch.nan).expand(b, h, n, m)
    everything = torch.ones((), dtype=torch.bool, device=weight.device).expand(b, n, m)
    return Stream(nothing, everything, query, value, paired, streamed)


def _of_pyg(graph: Data | HeteroData) -> Bipartite:
    if isinstance(graph, HeteroData):
        if len(graph.edge_types) != 1:
            kinds = ", ".join(map(str, graph.edge_types)) or "none"
            raise ValueError(
                "the graph must have one edge type, or the node types query and value; it has "
                f"{kinds}: select one, for instance with graph.edge_type_subgraph"
            )
        edges, (source, _, target) = graph[graph.edge_types[0]], graph.edge_types[0]
        values, queries = graph[source], graph[target]
    else:
        edges = values = queries = graph
    if edges.get("edge_index") is None:
        raise ValueError("the PyG graph has no edge_index")
    query, value = queries.get("x"), values.get("x")
    for x in (query, value):
        if x is not None and x.dim() != 2:
            raise ValueError(
                f"x must have shape (nodes, features), got {tuple(x.shape)}: pass x[:, None] for one feature"
            )
    j, i = edges.edge_index
    weight = edge_weights(edges.get("edge_weight"), j, query)
    dense = weight.new_zeros(queries.num_nodes, values.num_nodes).index_put((i, j), weight, accumulate=True)
    if query is None or value is None or query.shape[1] != value.shape[1]:
        query = value = None
    else:
        query, value = (x.to(dense.dtype)[None, None] for x in (query, value))
    visible = torch.ones_like(dense, dtype=torch.bool)[None]
    return Bipartite(dense[None, None], visible, query, value, paired=queries is values)
