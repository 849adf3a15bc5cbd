r"""Sums over the edges of graphs: all that label statistics, entropies and what queries receive need of the
weights.

They are as small as the nodes, and one pass over the weights gives them all, since what the weights are to be
multiplied by is known beforehand: one-hot codes of the classes, permuted ones, features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from analysis.bipartite import Bipartite, Stream, positive
from attngraph.streaming import sweep

#: The most edges of one part in :func:`in_parts`: some arrays of them fit into a processor's cache.
EDGES = 2**19


@dataclass(frozen=True, eq=False)
class EdgeSums:
    r"""Sums over the edges of a batch of graphs with weights :math:`A_{ij} \ge 0`.

    Args:
        query_degree: :math:`d_i = \sum_j A_{ij}`, ``(b, h, n)``.
        value_degree: :math:`e_j = \sum_i A_{ij}`, ``(b, h, m)``, over all queries, also in causal graphs.
        query_log: :math:`\sum_j A_{ij} \log A_{ij}`, ``(b, h, n)``.
        value_log: :math:`\sum_i A_{ij} \log A_{ij}`, ``(b, h, m)``.
        seen: how many values each query may see, whole numbers ``(b, n)``.
        seen_by: how many queries may see each value, ``(b, m)``.
        loops: :math:`A_{ii}`, ``(b, h, n)``; None where the two sides are not the same nodes.
        at_queries: :math:`\sum_j A_{ij} x_j`, ``(b, h, n, c)``, for every array x of numbers at the values
            that was asked for.
        at_values: :math:`\sum_i A_{ij} y_i`, ``(b, h, m, c)``, for every array y of numbers at the queries
            that was asked for.
    """

    query_degree: Tensor
    value_degree: Tensor
    query_log: Tensor
    value_log: Tensor
    seen: Tensor
    seen_by: Tensor
    loops: Tensor | None = None
    at_queries: tuple[Tensor, ...] = ()
    at_values: tuple[Tensor, ...] = ()

    @staticmethod
    def of(graph: Bipartite, values: Sequence[Tensor] = (), queries: Sequence[Tensor] = ()) -> EdgeSums:
        """The sums of a graph.

        Args:
            graph: the graph.
            values: arrays ``(b, h|1, m, c)`` whose sums at the queries are asked for.
            queries: arrays ``(b, h|1, n, c)`` whose sums at the values are asked for.
        """
        x, y = _joined(values, graph, graph.weight.shape[3]), _joined(queries, graph, graph.weight.shape[2])
        if isinstance(graph, Stream):
            return (_even_sums if graph.even else _swept_sums)(graph, x, y, values, queries)
        d, e, query_log, value_log, at_queries, at_values = in_parts(_sums, graph.weight, x, y)
        return EdgeSums(
            d,
            e,
            query_log,
            value_log,
            graph.visible.sum(2),
            graph.visible.sum(1),
            graph.weight.diagonal(dim1=-2, dim2=-1) if graph.paired else None,
            at_queries.split([part.shape[-1] for part in values], -1),
            at_values.split([part.shape[-1] for part in queries], -1),
        )

    @staticmethod
    def uniform(graph: Bipartite, values: Sequence[Tensor] = (), queries: Sequence[Tensor] = ()) -> EdgeSums:
        r"""The sums of uniform attention (:func:`analysis.nulls.uniform`), :math:`U_{ij} = d_i/k_i` at the
        :math:`k_i` values that query i may see: products with the mask, which all heads share.

        Args:
            graph: the graph, whose mask and query degrees are kept.
            values, queries: as for :meth:`of`.
        """
        if isinstance(graph, Stream):
            return EdgeSums.of(replace(graph, even=True), values, queries)
        n, m = graph.weight.shape[2:]
        degree, mask = graph.query_degree, graph.visible.to(graph.weight.dtype)
        seen = graph.visible.sum(2)
        each = (degree / seen.clamp(min=1)[:, None])[..., None]  # (b, h, n, 1)
        log = positive(each).log()
        at_queries = _product(mask, _joined(values, graph, m)) * each
        at_values = _product(mask.mT, _joined(queries, graph, n) * each)
        # many equal terms: in float32 each is rounded the same way, and the logarithms would show it
        exact = _product(mask.mT.double(), torch.cat([each, each * log], -1).double())
        value_degree, value_log = exact.to(degree.dtype).unbind(-1)
        return EdgeSums(
            degree,
            value_degree,
            degree * log[..., 0],
            value_log,
            seen,
            graph.visible.sum(1),
            each[..., 0] * mask.diagonal(dim1=-2, dim2=-1)[:, None] if graph.paired else None,
            at_queries.split([part.shape[-1] for part in values], -1),
            at_values.split([part.shape[-1] for part in queries], -1),
        )


def _swept_sums(
    graph: Stream, x: Tensor, y: Tensor, values: Sequence[Tensor], queries: Sequence[Tensor]
) -> EdgeSums:
    """Of a stream, from a sweep with all columns."""
    found = sweep(graph.streamed.scores, values=x, queries=y, self_loops=graph.loops)
    at_queries, at_values, value_log = found.at_queries, found.at_values, graph.swept.value_log
    assert at_queries is not None and at_values is not None and value_log is not None
    return EdgeSums(
        graph.query_degree,
        graph.value_degree,
        -graph.swept.totals.entropy,
        value_log,
        graph.seen,
        graph.seen_by,
        graph.swept.loops if graph.paired else None,
        at_queries.split([part.shape[-1] for part in values], -1),
        at_values.split([part.shape[-1] for part in queries], -1),
    )


def _even_sums(
    graph: Stream, x: Tensor, y: Tensor, values: Sequence[Tensor], queries: Sequence[Tensor]
) -> EdgeSums:
    """Of uniform attention with a stream's mask, from products with strips of the mask."""
    each = (graph.query_degree / graph.seen.clamp(min=1)[:, None])[..., None]  # (b, h, n, 1)
    log = positive(each).log()
    ends = torch.cat([y * each, each, each * log], -1).double()  # many equal terms: see EdgeSums.uniform
    sums = ends.new_zeros(*x.shape[:3], ends.shape[-1])
    at_queries, loops = [], []
    for rows, visible in graph.visible_strips():
        at_queries.append(_product(visible.to(x.dtype), x) * each[:, :, rows])
        sums += _product(visible.mT.double(), ends[:, :, rows])
        if graph.paired:
            loops.append(visible.diagonal(rows.start, -2, -1)[:, None] * each[:, :, rows, 0])
    sizes = [part.shape[-1] for part in queries]
    *at_values, value_degree, value_log = sums.to(x.dtype).split([*sizes, 1, 1], -1)
    return EdgeSums(
        graph.query_degree,
        value_degree[..., 0],
        graph.query_degree * log[..., 0],
        value_log[..., 0],
        graph.seen,
        graph.seen_by,
        torch.cat(loops, -1) if graph.paired else None,
        torch.cat(at_queries, 2).split([part.shape[-1] for part in values], -1),
        tuple(at_values),
    )


def over_edges(
    function: Callable[..., Sequence[Tensor]], graph: Bipartite, query: Tensor, value: Tensor
) -> list[Tensor]:
    """Sums over all edges, ``(b, h)``, for which no array of all edges is made.

    Args:
        function: gives such sums from the weights of some queries' edges, and from what belongs to these
            queries and to all values.
        graph: the graph.
        query, value: ``(b, h, n, .)`` and ``(b, h, m, .)``.
    """
    if not isinstance(graph, Stream):
        return in_parts(function, graph.weight, query, value)
    found = (function(weight, query[:, :, rows], value) for rows, weight in graph.strips())
    return [torch.stack(parts).sum(0) for parts in zip(*found)]


def in_parts(function: Callable[..., Sequence[Tensor]], *arrays: Tensor) -> list[Tensor]:
    """What a function of arrays with the axes ``(b, h, ...)`` returns, arrays ``(b, h, ...)`` too, computed
    for so few examples and heads at a time that what it keeps of every edge stays in the processor's cache.

    Args:
        function: treats examples and heads one by one.
        arrays: the first is the largest, ``(b, h, n, m)``, with a number for each edge, say; of the others
            the first two sizes may be 1.
    """
    b, h, n, m = arrays[0].shape
    heads = max(1, min(h, EDGES // max(1, n * m)))
    examples = max(1, EDGES // max(1, n * m * h))

    def part(x: Tensor, example: int, head: int) -> Tensor:
        x = x if x.shape[0] == 1 else x[example : example + examples]
        return x if x.shape[1] == 1 else x[:, head : head + heads]

    rows = [
        [function(*(part(x, example, head) for x in arrays)) for head in range(0, h, heads)]
        for example in range(0, b, examples)
    ]
    if len(rows) == len(rows[0]) == 1:
        return list(rows[0][0])
    return [torch.cat(found) for found in zip(*([torch.cat(x, 1) for x in zip(*row)] for row in rows))]


def _sums(weight: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    tiny = torch.finfo(weight.dtype).tiny
    logs = weight.clamp(min=tiny).log_().mul_(weight)
    return weight.sum(-1), weight.sum(-2), logs.sum(-1), logs.sum(-2), weight @ x, weight.mT @ y


def _joined(arrays: Sequence[Tensor], graph: Bipartite, nodes: int) -> Tensor:
    """All columns side by side, ``(b, h, nodes, columns)``."""
    b, h = graph.weight.shape[:2]
    columns = [x.to(graph.weight.dtype).expand(b, h, -1, -1) for x in arrays]
    return torch.cat([graph.weight.new_zeros(b, h, nodes, 0), *columns], -1)


def _product(mask: Tensor, x: Tensor) -> Tensor:
    """``(b, n, m)`` times ``(b, h, m, c)``: all heads in one product, or one sum where all rows of the mask
    with anything in them are the same."""
    queries, values = ((mask.sum(axis) > 0).to(mask.dtype) for axis in (2, 1))
    if torch.equal(mask, queries[..., None] * values[:, None]):
        return queries[:, None, :, None] * (values[:, None, None] @ x)
    return (mask @ x.transpose(1, 2).flatten(2)).unflatten(2, (x.shape[1], -1)).transpose(1, 2)
