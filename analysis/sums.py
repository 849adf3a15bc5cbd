r"""Sums over the edges of graphs: all that label statistics, entropies and what queries receive need of the
weights.

They are as small as the nodes, and one pass over the weights gives them all, since what the weights are to be
multiplied by is known beforehand: one-hot codes of the classes, permuted ones, features.

Passes over edges are computed in C where :func:`in_c` can, and elsewhere by torch, :func:`in_parts`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attngraph.analysis.bipartite import Bipartite, Stream, positive
from attngraph.analysis.nulls import even_weight
from attngraph.functorch import transformed
from attngraph.native.library import call, library, pointer
from attngraph.streaming import sweep

#: The most edges of one part in :func:`in_parts`: some arrays of them fit into a processor's cache.
EDGES = 2**19
#: What the functions in C read.
TYPES = (torch.float32, torch.bool, torch.int32)


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
    def of(
        graph: Bipartite,
        values: Sequence[Tensor] = (),
        queries: Sequence[Tensor] = (),
        self_loops: bool = True,
    ) -> EdgeSums:
        """The sums of a graph.

        Args:
            graph: the graph.
            values: arrays ``(b, h|1, m, c)`` whose sums at the queries are asked for.
            queries: arrays ``(b, h|1, n, c)`` whose sums at the values are asked for.
            self_loops: False gives those of
                :meth:`attngraph.analysis.bipartite.Bipartite.without_self_loops`, without a copy of the
                weights where they are computed in C.

        Raises:
            ValueError: no self-loops, in a graph whose two sides are not the same nodes.
        """
        nodes = graph if self_loops else graph.hiding_self_loops()
        b, h, n, m = graph.weight.shape
        x, y = _joined(values, graph, m), _joined(queries, graph, n)
        if isinstance(nodes, Stream):
            return (_even_sums if nodes.even else _swept_sums)(nodes, x, y, values, queries)
        sizes = [(n,), (m,), (n,), (m,), (n, x.shape[-1]), (m, y.shape[-1])]
        found = [graph.weight.new_empty(b, h, *size) for size in sizes]
        options = b * h, n, m, x.shape[-1], y.shape[-1], self_loops
        columns = (some if some.shape[-1] else None for some in (x, y))
        if not in_c("attngraph_edge_sums", options, (graph.weight, *columns), found):
            weight = graph.weight if self_loops else graph.without_self_loops().weight
            found = in_parts(_sums, weight, x, y)
        d, e, query_log, value_log, at_queries, at_values = found
        loops = graph.weight.diagonal(dim1=-2, dim2=-1) if graph.paired else None
        return EdgeSums(
            d,
            e,
            query_log,
            value_log,
            nodes.seen,
            nodes.seen_by,
            loops if loops is None or self_loops else torch.zeros_like(loops),
            at_queries.split([part.shape[-1] for part in values], -1),
            at_values.split([part.shape[-1] for part in queries], -1),
        )

    @staticmethod
    def uniform(
        graph: Bipartite,
        values: Sequence[Tensor] = (),
        queries: Sequence[Tensor] = (),
        sums: EdgeSums | None = None,
    ) -> EdgeSums:
        r"""The sums of uniform attention (:func:`attngraph.analysis.nulls.uniform`), :math:`U_{ij} = d_i/k_i`
        at the :math:`k_i` values that query i may see: products with the mask, which all heads share.

        Args:
            graph: the graph, whose mask and query degrees are kept.
            values, queries: as for :meth:`of`.
            sums: the graph's, where they are known: they hold its query degrees.
        """
        if isinstance(graph, Stream):
            return EdgeSums.of(replace(graph, even=True), values, queries)
        n, m = graph.weight.shape[2:]
        degree, times = (
            (graph if sums is None else sums).query_degree,
            _mask_product(graph.visible, graph.seen, graph.seen_by),
        )
        each = even_weight(graph, degree)[..., None]  # (b, h, n, 1)
        log = positive(each).log()
        at_queries = times(_joined(values, graph, m), False) * each
        at_values = times(_joined(queries, graph, n) * each, True)
        # many equal terms: in float32 each is rounded the same way, and the logarithms would show it
        exact = times(torch.cat([each, each * log], -1).double(), True)
        value_degree, value_log = exact.to(degree.dtype).unbind(-1)
        return EdgeSums(
            degree,
            value_degree,
            degree * log[..., 0],
            value_log,
            graph.seen,
            graph.seen_by,
            each[..., 0] * graph.visible.diagonal(dim1=-2, dim2=-1)[:, None] if graph.paired else None,
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
    each = even_weight(graph, graph.query_degree)[..., None]  # (b, h, n, 1)
    log = positive(each).log()
    ends = torch.cat([y * each, each, each * log], -1).double()  # many equal terms: see EdgeSums.uniform
    sums = ends.new_zeros(*x.shape[:3], ends.shape[-1])
    at_queries, loops = [], []
    for rows, visible in graph.visible_strips():
        times = _mask_product(visible, visible.sum(2), visible.sum(1))
        at_queries.append(times(x, False) * each[:, :, rows])
        sums += times(ends[:, :, rows], True)
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


def in_c(
    name: str, options: Sequence[float], inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]
) -> bool:
    """Call a function of ``attngraph/native/edges.c``, and return True: if the library of C kernels can be
    used, all inputs are on the processor, of the types that it reads (:data:`TYPES`), and not empty, and no
    gradients are wanted. Otherwise nothing happens.

    Args:
        name: of the function, whose parameters are the following and the number of threads.
        options: whole numbers and floats.
        inputs: tensors of the sizes that the function reads, or None for NULL.
        outputs: contiguous tensors, which are written to.

    Raises:
        MemoryError: there is no memory for the edges of a head.
    """
    tensors = [x for x in inputs if x is not None]
    wanted = all(x.is_cpu and x.dtype in TYPES and x.numel() for x in tensors)
    differentiated = transformed() or (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
    if not wanted or differentiated or library() is None:
        return False
    whole = [None if x is None else x.contiguous() for x in inputs]  # alive until the call is over
    numbers = [ctypes.c_float(x) if isinstance(x, float) else ctypes.c_int(x) for x in options]
    pointers = [ctypes.c_void_p(pointer(x)) for x in (*whole, *outputs)]
    call(name, *numbers, *pointers, ctypes.c_int(torch.get_num_threads()))
    return True


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
    if len(arrays) == 1:
        return arrays[0].to(graph.weight.dtype).expand(b, h, -1, -1)
    found, first = graph.weight.new_empty(b, h, nodes, sum(x.shape[-1] for x in arrays)), 0
    for x in arrays:
        found.narrow(-1, first, x.shape[-1]).copy_(x)
        first += x.shape[-1]
    return found


def _mask_product(visible: Tensor, seen: Tensor, seen_by: Tensor) -> Callable[[Tensor, bool], Tensor]:
    """The product of a mask ``(b, n, m)``, or of its transpose where the second argument is True, and
    ``(b, h, m|n, c)``: of all heads in one; or one sum where all queries that see anything see the same
    values, perhaps but for themselves. The numbers of the mask's edges come with it."""
    (n, m), rows, columns = visible.shape[1:], seen > 0, seen_by > 0
    missing = rows.sum(1) * columns.sum(1) - seen.sum(1)
    but_self = n == m and not visible.diagonal(dim1=-2, dim2=-1).any()
    but_self = but_self and torch.equal(missing, (rows & columns).sum(1))
    alike = but_self or not missing.any()

    def times(x: Tensor, transposed: bool) -> Tensor:
        if alike:
            to, of = (columns, rows) if transposed else (rows, columns)
            total = of.to(x.dtype)[:, None, None] @ x
            total = total - x * of[:, None, :, None] if but_self else total
            return to[:, None, :, None] * total
        mask = visible.mT if transposed else visible
        found = mask.to(x.dtype) @ x.transpose(1, 2).flatten(2)
        return found.unflatten(2, (x.shape[1], -1)).transpose(1, 2)

    return times
