r"""Sums over the edges of graphs: all that label statistics, entropies and aggregated features need of the
weights.

They have one entry per node, and one pass over the weights gives them all, since the factors of the weights
are known beforehand: one-hot codes of the classes, permuted ones, features.

Passes over edges are computed in C where :func:`in_c` can, and elsewhere by torch, :func:`in_parts`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attngraph.analysis.bipartite import Bipartite, Stream, positive
from attngraph.analysis.labels import Labels
from attngraph.analysis.nulls import even_weight
from attngraph.functorch import transformed
from attngraph.native.library import call, library, pointer
from attngraph.streaming import sweep

#: The most edges of one part in :func:`in_parts`: some arrays of them fit into a processor's cache.
EDGES = 2**19
LINE = 32  # the functions in C write sums by class for whole lines of this many nodes
#: What the functions in C read.
TYPES = (torch.float32, torch.bool, torch.int32)


@dataclass(frozen=True, eq=False)
class ClassSums:
    r"""Sums of weights by class, for several labellings of a graph's nodes.

    Args:
        query_degree: :math:`\sum_j A_{ij}`, ``(b, h, n)``.
        at_queries: of each labelling, :math:`\sum_j A_{ij} 1[z_j = l]`, ``(b, h, C, n)``.
        at_values: of each labelling, :math:`\sum_i A_{ij} 1[y_i = k]`, ``(b, h, K, m)``.
    """

    query_degree: Tensor
    at_queries: tuple[Tensor, ...]
    at_values: tuple[Tensor, ...]

    @staticmethod
    def uniform(graph: Bipartite, labellings: Sequence[Labels], query_degree: Tensor) -> ClassSums:
        """Those of uniform attention (:func:`attngraph.analysis.nulls.uniform`).

        Args:
            graph: the graph, whose mask is kept.
            labellings: classes, as :meth:`attngraph.analysis.labels.Labels.on` returns them.
            query_degree: the graph's, which is kept.
        """
        each = even_weight(graph, query_degree)[..., None]  # (b, h, n, 1)
        x, y = _codes(labellings, graph)
        at_queries, at_values = [], each.new_zeros(*x.shape[:3], y.shape[-1])
        for rows, *mask in _masks(graph):
            times = _mask_product(*mask)
            at_queries.append(times(x, False) * each[:, :, rows])
            at_values += times((y * each)[:, :, rows], True)
        return _split(labellings, query_degree, torch.cat(at_queries, 2).mT, at_values.mT)


@dataclass(frozen=True, eq=False)
class EdgeSums:
    r"""Sums over the edges of a batch of graphs with weights :math:`A_{ij} \ge 0`.

    Args:
        query_degree: :math:`d_i = \sum_j A_{ij}`, ``(b, h, n)``.
        value_degree: :math:`e_j = \sum_i A_{ij}`, ``(b, h, m)``, over all queries, also in causal graphs.
        query_log: :math:`\sum_j A_{ij} \log A_{ij}`, ``(b, h, n)``.
        value_log: :math:`\sum_i A_{ij} \log A_{ij}`, ``(b, h, m)``.
        seen: how many values each query may see, integers ``(b, n)``.
        seen_by: how many queries may see each value, ``(b, m)``.
        loops: :math:`A_{ii}`, ``(b, h, n)``; None where the two sides are not the same nodes.
        at_queries: :math:`\sum_j A_{ij} x_j`, ``(b, h, n, c)``, of the numbers x at the values that were
            given.
        by_class: the sums by class that were asked for.
    """

    query_degree: Tensor
    value_degree: Tensor
    query_log: Tensor
    value_log: Tensor
    seen: Tensor
    seen_by: Tensor
    loops: Tensor | None
    at_queries: Tensor
    by_class: ClassSums

    @staticmethod
    def of(
        graph: Bipartite,
        values: Tensor | None = None,
        labellings: Sequence[Labels] = (),
        self_loops: bool = True,
    ) -> EdgeSums:
        """The sums of a graph.

        Args:
            graph: the graph.
            values: numbers ``(b, h|1, m, c)`` whose sums at the queries are asked for.
            labellings: classes whose sums are asked for, as
                :meth:`attngraph.analysis.labels.Labels.on` returns them.
            self_loops: False leaves the edges between node i and node i out of the sums by class, without a
                copy of the weights where they are computed in C.

        Raises:
            ValueError: no self-loops, in a graph whose two sides are not the same nodes.
        """
        hidden = graph if self_loops else graph.hiding_self_loops()
        x = _columns(values, graph)
        if isinstance(graph, Stream) and isinstance(hidden, Stream):
            return _of_stream(graph, hidden, x, labellings)
        b, h, n, m = graph.weight.shape
        rows, columns = (sum(of) for of in zip((0, 0), *(labels.sizes for labels in labellings)))
        sizes: list[tuple[int, ...]] = [(n,), (m,), (n,), (m,), (n, x.shape[-1])]
        found = [graph.weight.new_empty(b, h, *size) for size in sizes]
        sizes = [(n,), (columns, -(-n // LINE) * LINE), (rows, -(-m // LINE) * LINE)]
        by_class = [graph.weight.new_zeros(b, h, *size) for size in sizes]
        options = b * h, n, m, x.shape[-1], len(labellings), columns, rows, self_loops
        inputs = graph.weight, x if x.shape[-1] else None, *_numbered(labellings, graph)
        if not in_c("attngraph_edge_sums", options, inputs, [*found, *by_class]):
            found = in_parts(_sums, graph.weight, x)
            weight = graph.weight if self_loops or not labellings else graph.without_self_loops().weight
            by_class = in_parts(_class_sums, weight, *_codes(labellings, graph))
        d, e, query_log, value_log, at_queries = found
        loops = graph.weight.diagonal(dim1=-2, dim2=-1) if graph.paired else None
        degree, of_queries, of_values = by_class
        classes = _split(labellings, degree, of_queries[..., :n], of_values[..., :m])
        return EdgeSums(d, e, query_log, value_log, graph.seen, graph.seen_by, loops, at_queries, classes)

    @staticmethod
    def uniform(graph: Bipartite, values: Tensor | None = None, sums: EdgeSums | None = None) -> EdgeSums:
        r"""The sums of uniform attention (:func:`attngraph.analysis.nulls.uniform`), :math:`U_{ij} = d_i/k_i`
        at the :math:`k_i` values that query i may see: products with the mask, which all heads share.

        Args:
            graph: the graph, whose mask and query degrees are kept.
            values: as for :meth:`of`.
            sums: the graph's, where they are known: they hold its query degrees.
        """
        degree, x = (graph if sums is None else sums).query_degree, _columns(values, graph)
        each = even_weight(graph, degree)[..., None]  # (b, h, n, 1)
        log = positive(each).log()
        # many equal terms: in float32 each is rounded the same way, and the logarithms would show it
        ends = torch.cat([each, each * log], -1).double()
        at_queries, loops, at_values = [], [], ends.new_zeros(*x.shape[:3], 2)
        for rows, visible, *seen in _masks(graph):
            times = _mask_product(visible, *seen)
            at_queries.append(times(x, False) * each[:, :, rows])
            at_values += times(ends[:, :, rows], True)
            if graph.paired:
                loops.append(visible.diagonal(rows.start, -2, -1)[:, None] * each[:, :, rows, 0])
        value_degree, value_log = at_values.to(degree.dtype).unbind(-1)
        return EdgeSums(
            degree,
            value_degree,
            degree * log[..., 0],
            value_log,
            graph.seen,
            graph.seen_by,
            torch.cat(loops, -1) if graph.paired else None,
            torch.cat(at_queries, 2),
            ClassSums(degree, (), ()),
        )


def _of_stream(graph: Stream, hidden: Stream, x: Tensor, labellings: Sequence[Labels]) -> EdgeSums:
    """Of a stream, and the sums by class of one that may have no self-loops: from one sweep, or from two."""
    if graph.even:
        sums = EdgeSums.uniform(graph, x)
        return replace(sums, by_class=ClassSums.uniform(hidden, labellings, hidden.query_degree))
    scores, (of_values, of_queries) = graph.streamed.scores, _codes(labellings, graph)
    both = torch.cat([x, of_values], -1) if graph.loops == hidden.loops else of_values
    found = sweep(scores, values=both, queries=of_queries, self_loops=hidden.loops)
    assert found.at_queries is not None and found.at_values is not None
    at_queries, by_class = found.at_queries.split(
        [both.shape[-1] - of_values.shape[-1], of_values.shape[-1]], -1
    )
    if graph.loops != hidden.loops and x.shape[-1]:
        at_queries = sweep(scores, values=x, self_loops=graph.loops).at_queries
    assert at_queries is not None and graph.swept.value_log is not None
    return EdgeSums(
        graph.query_degree,
        graph.value_degree,
        -graph.totals.entropy,
        graph.swept.value_log,
        graph.seen,
        graph.seen_by,
        graph.swept.loops if graph.paired else None,
        at_queries,
        _split(labellings, found.totals.query_degree, by_class.mT, found.at_values.mT),
    )


def _sums(weight: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    tiny = torch.finfo(weight.dtype).tiny
    logs = weight.clamp(min=tiny).log_().mul_(weight)
    return weight.sum(-1), weight.sum(-2), logs.sum(-1), logs.sum(-2), weight @ x


def _class_sums(weight: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return weight.sum(-1), (weight @ x).mT, (weight.mT @ y).mT


def _columns(values: Tensor | None, graph: Bipartite) -> Tensor:
    """Numbers at the values, none if there are none, ``(b, h, m, c)``."""
    b, h, _, m = graph.weight.shape
    found = graph.weight.new_empty(b, h, m, 0) if values is None else values.to(graph.weight.dtype)
    return found.expand(b, h, -1, -1)


def _codes(labellings: Sequence[Labels], graph: Bipartite) -> tuple[Tensor, Tensor]:
    """One-hot codes of the values' and of the queries' classes, side by side, ``(b, h, nodes, columns)``."""
    b, h, n, m = graph.weight.shape
    of = [labels.codes() for labels in labellings]
    values, queries = (
        torch.cat(
            [graph.weight.new_empty(b, h, nodes, 0), *(codes[k].expand(b, h, -1, -1) for codes in of)], -1
        )
        for k, nodes in ((1, m), (0, n))
    )
    return values, queries


def _numbered(labellings: Sequence[Labels], graph: Bipartite) -> list[Tensor | None]:
    """The classes of the queries and of the values, numbered over all labellings,
    ``(b, h, labellings, nodes)``; below 0 for none."""
    if not labellings:
        return [None, None]
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    firsts = [0, 0]
    for labels in labellings:
        for k, classes in enumerate((labels.query, labels.value)):
            size = (*graph.weight.shape[:2], graph.weight.shape[2 + k])
            sides[k].append(torch.where(classes < 0, -1, classes + firsts[k]).int().expand(size))
            firsts[k] += labels.sizes[k]
    return [torch.stack(side, 2) for side in sides]


def _split(labellings: Sequence[Labels], degree: Tensor, at_queries: Tensor, at_values: Tensor) -> ClassSums:
    """From the sums of all labellings, ``(b, h, classes, nodes)``."""
    sizes = [labels.sizes for labels in labellings]
    return ClassSums(
        degree,
        at_queries.split([columns for _, columns in sizes], -2),
        at_values.split([rows for rows, _ in sizes], -2),
    )


def _masks(graph: Bipartite) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Which edges may exist, some queries of a stream at a time: these queries, ``(b, rows, m)``, and the
    numbers of edges of each query and value."""
    if isinstance(graph, Stream):
        for rows, visible in graph.visible_strips():
            yield rows, visible, visible.sum(2), visible.sum(1)
    else:
        yield slice(0, graph.weight.shape[2]), graph.visible, graph.seen, graph.seen_by


def in_c(
    name: str, options: Sequence[float], inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]
) -> bool:
    """Call a function of ``attngraph/native/edges.c``, and return True: if the library of C kernels can be
    used, all inputs are on the processor, of the types that it reads (:data:`TYPES`), and not empty, and no
    gradients are wanted. Otherwise nothing happens.

    Args:
        name: of the function, whose parameters are the following and the number of threads.
        options: integers and floats.
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
    """Results of a function of arrays ``(b, h, ...)``, which are arrays ``(b, h, ...)`` too, computed for a
    few examples and heads at a time, so that its numbers per edge fit into the processor's cache.

    Args:
        function: function that treats examples and heads independently.
        arrays: the first is the largest, for instance ``(b, h, n, m)`` with a number for each edge; the first
            two sizes of the others may be 1.
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
