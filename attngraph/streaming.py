r"""Graphs whose weights are never all in memory: statistics of
:math:`M = \mathrm{softmax}(s\, Q K^\top + \text{mask})` from one sweep over strips of its rows.

A strip is a few queries times all values. It gives the heaviest edges of its queries and all sums over edges,
so that time is that of computing M, and memory that of the nodes and of the edges that are kept. With the
library of C kernels (:mod:`attngraph.native`) a sweep is one call; without it, or on a GPU, in float64, or
under a mask that adds numbers, strips are computed by torch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from attngraph.graph import AttentionGraph
from attngraph.native.library import call, library, pointer
from attngraph.precision import widen
from attngraph.scores import AttentionScores
from attngraph.sparsify import KeptWeight, NonZeros, Totals, keep, narrow

EDGES = 2**22  # of a strip in torch's operations, over all examples and heads
ROWS = (32, 64)  # the least and the most queries of a strip in C
STRIP = 2**20  # edges of such a strip, as far as its rows allow


@dataclass(frozen=True, eq=False)
class Sweep:
    r"""Results of one sweep over the edges.

    Args:
        totals: degrees and entropies.
        heaviest: the heaviest edges of each query, if requested, with these totals.
        value_log: :math:`\sum_i M_{ij} \log M_{ij}`, ``(b, h, m)``, if requested.
        loops: :math:`M_{ii}`, ``(b, h, n)``, if ``value_log`` was requested; 0 if there is no value i, or
            if self-loops do not count as edges.
        at_queries: :math:`\sum_j M_{ij} x_j`, ``(b, h, n, c)``, for the columns x that were given.
        at_values: :math:`\sum_i M_{ij} y_i`, ``(b, h, m, c)``, for the columns y that were given.
    """

    totals: Totals
    heaviest: NonZeros | None = None
    value_log: Tensor | None = None
    loops: Tensor | None = None
    at_queries: Tensor | None = None
    at_values: Tensor | None = None


@torch.no_grad()
def sweep(
    scores: AttentionScores,
    top_k: int | None = None,
    values: Tensor | None = None,
    queries: Tensor | None = None,
    logs: bool = False,
    self_loops: bool = True,
) -> Sweep:
    """Go over all edges once.

    Args:
        scores: the attention.
        top_k: number of edges of each query to keep, chosen as by :func:`attngraph.sparsify.keep`.
        values: columns ``(b or 1, h or 1, m, c)`` to be summed at the queries.
        queries: columns ``(b or 1, h or 1, n, c)`` to be summed at the values.
        logs: whether to compute ``value_log`` and ``loops``.
        self_loops: whether edges from query i to value i count. If not, they are excluded from the sums, not
            subtracted: for a query that attends almost only to itself, only rounding errors would remain.

    Raises:
        ValueError: a ``top_k`` that is not an integer of at least 1, or scores with dropout.
    """
    if top_k is not None:
        keep(torch.ones(1, 1), top_k=top_k)  # raises errors for invalid arguments
        top_k = min(int(top_k), scores.shape[3])
    if scores.kept is not None:
        raise ValueError("weights after dropout can't be streamed: pass scores without kept=")
    b, h = scores.shape[:2]
    values, queries = (
        None if x is None else x.to(widen(scores.query).dtype).expand(b, h, -1, -1).contiguous()
        for x in (values, queries)
    )
    usable = library() is not None and _fits(scores)
    return (_in_c if usable else _in_torch)(scores, top_k or 0, values, queries, logs, self_loops)


@dataclass(frozen=True, eq=False)
class Streamed(KeptWeight):
    """Weights that are computed from their scores whenever they are read; degrees are known.

    Args:
        scores: the scores.
        totals: from a sweep.
        heaviest: the edges to keep once the scores are not needed any more; None if they always are.
    """

    scores: AttentionScores
    totals: Totals
    heaviest: NonZeros | None = None

    @classmethod
    def of(cls, scores: AttentionScores, top_k: int | None = None) -> Streamed:
        """Sweep over the edges, and choose the ``top_k`` heaviest of each query."""
        found = sweep(scores, top_k)
        return cls(scores, found.totals, found.heaviest)

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.scores.shape[:4])

    def dense(self) -> Tensor:
        return self.scores.weight()

    def non_zeros(self) -> NonZeros:
        return super().non_zeros() if self.heaviest is None else self.heaviest

    def chosen(self, **rules: Any) -> NonZeros:
        top_k = rules.get("top_k")
        if top_k is None or any(rules[name] is not None for name in rules if name != "top_k"):
            raise ValueError("a streamed graph can keep only the heaviest edges of each query: pass top_k")
        heaviest = sweep(self.scores, top_k).heaviest
        assert heaviest is not None
        return heaviest

    def rows(self, queries: slice) -> Tensor:
        return _weights(self.scores, queries)

    def strips(self) -> Iterator[tuple[slice, Tensor]]:
        return strips(self.scores)

    def sum(self, axis: int) -> Tensor:
        return self.totals.query_degree if axis == -1 else self.totals.value_degree

    def sum_of(self, factors: Tensor) -> Tensor:
        at_values = sweep(self.scores, queries=factors[:, None]).at_values
        assert at_values is not None
        return at_values.transpose(-1, -2)

    def map(self, function: Callable[[Tensor], Tensor]) -> Streamed:
        tensors: dict[str, Any] = {
            field.name: function(x)
            for field in fields(self.scores)
            if isinstance(x := getattr(self.scores, field.name), Tensor)
        }
        heaviest = None if self.heaviest is None else self.heaviest.map(function)
        return Streamed(replace(self.scores, **tensors), Totals(*map(function, self.totals)), heaviest)

    def at(self, examples: slice | list[int], heads: slice | list[int]) -> Streamed:
        heaviest = None if self.heaviest is None else self.heaviest.at(examples, heads)
        totals = Totals(*(x[examples][:, heads] for x in self.totals))
        return Streamed(scores_of(self.scores, examples, heads), totals, heaviest)


def heaviest(graph: AttentionGraph, top_k: int) -> AttentionGraph:
    """The ``top_k`` heaviest edges of each query alone, with the totals of all edges."""
    kept = graph.stored
    if isinstance(kept, Streamed):
        return graph.keeping(kept.heaviest or kept.chosen(top_k=top_k))
    weight = widen(graph.weight)
    logs = torch.special.xlogy(weight, weight).sum(-1)
    degree = weight.sum(-1)
    share = torch.where(degree > 0, degree, 1)
    totals = Totals(degree, weight.sum(-2), share.log() - logs / share)
    edges = NonZeros.of(torch.where(keep(weight, top_k=top_k), weight, 0))
    return graph.keeping(replace(edges, totals=totals))


def scores_of(
    scores: AttentionScores, examples: slice | list[int], heads: slice | list[int]
) -> AttentionScores:
    """The scores of some examples and heads."""
    b = scores.shape[0]

    def both(x: Tensor) -> Tensor:
        return x[examples][:, heads]

    mask, scale = scores.mask, scores.scale
    if mask is not None and mask.shape[0] == b:
        mask = mask[examples]
    if isinstance(scale, Tensor) and scale.dim():
        scale = scale.expand(*scores.shape[:2], *(1, 1, *scale.shape)[-2:])[examples][:, heads]
    return replace(
        scores,
        query=both(scores.query),
        key=both(scores.key),
        value=both(scores.value),
        feature=None if scores.feature is None else both(scores.feature),
        scale=scale,
        mask=mask,
        query_mask=None if scores.query_mask is None else scores.query_mask[examples],
        metric=None if scores.metric is None else scores.metric[heads],
        past_degree=None,
        picture=None,  # numbers of all examples
    )


# ---- in torch's operations ---------------------------------------------------------------------------------


def _weights(scores: AttentionScores, rows: slice) -> Tensor:
    """Some rows of the weights, ``(b, h, rows, m)``."""
    query = (widen(scores.query) * scores.scale)[:, :, rows]
    strip = scores.mask_(query @ widen(scores.key).transpose(-1, -2), rows)
    visible = scores.visible(rows)
    return strip.softmax(-1) if visible is None else strip.softmax(-1) * visible


def strips(scores: AttentionScores) -> Iterator[tuple[slice, Tensor]]:
    """The weights, some queries at a time: which, and ``(b, h, rows, m)``."""
    b, h, n, m, _ = scores.shape
    size = max(1, EDGES // max(1, b * h * m))
    for start in range(0, n, size):
        rows = slice(start, min(start + size, n))
        yield rows, _weights(scores, rows)


def _in_torch(
    scores: AttentionScores,
    top_k: int,
    values: Tensor | None,
    queries: Tensor | None,
    logs: bool,
    self_loops: bool,
) -> Sweep:
    b, h, n, m, _ = scores.shape
    example = widen(scores.query)
    value_degree = example.new_zeros(b, h, m, dtype=torch.float64)
    value_log = torch.zeros_like(value_degree) if logs else None
    at_values = None if queries is None else example.new_zeros(b, h, m, queries.shape[-1])
    by_query: list[list[Tensor]] = [[], [], [], [], []]
    loops = example.new_zeros(b, h, n) if logs else None
    for rows, weight in strips(scores):
        if not self_loops:
            weight.diagonal(rows.start, -2, -1).zero_()
        log = torch.special.xlogy(weight, weight)
        found = [weight.sum(-1), -log.sum(-1)]
        value_degree += weight.sum(-2, dtype=torch.float64)
        if value_log is not None and loops is not None:
            value_log += log.sum(-2, dtype=torch.float64)
            own = weight.diagonal(rows.start, -2, -1)
            loops[:, :, rows.start : rows.start + own.shape[-1]] = own
        if at_values is not None and queries is not None:
            at_values += weight.transpose(-1, -2) @ queries[:, :, rows]
        if values is not None:
            by_query[2].append(weight @ values)
        if top_k:
            order = weight.sort(dim=-1, descending=True, stable=True)
            value, place = order.indices[..., :top_k].sort(-1)
            by_query[3].append(order.values[..., :top_k].gather(-1, place))
            by_query[4].append(value.int())
        for kept, x in zip(by_query, found):
            kept.append(x)
    joined = [torch.cat(parts, 2) if parts else None for parts in by_query]
    query_degree, entropy, at_queries, weights, places = joined
    empty = example.new_zeros(b, h, 0)
    totals = Totals(
        empty if query_degree is None else query_degree,
        value_degree.to(example.dtype),
        empty if entropy is None else entropy,
    )
    heaviest = _non_zeros(weights, places, m, totals) if weights is not None and places is not None else None
    logged = None if value_log is None else value_log.to(example.dtype)
    return Sweep(totals, heaviest, logged, loops, at_queries, at_values)


def _non_zeros(weights: Tensor, places: Tensor, m: int, totals: Totals) -> NonZeros:
    """The edges that are kept of each query, ``(b, h, n, k)``; a weight of 0 means no edge."""
    b, h, n, _ = weights.shape
    size = torch.Size((b, h, n, m))
    first = torch.arange(n, device=places.device)[:, None] * m
    index, kept = [], []
    for item, (weight, place) in enumerate(zip(weights.flatten(0, 1), places.flatten(0, 1))):
        there = ~(weight <= 0)
        index.append(narrow((place + first)[there].add_(item * n * m), size))
        kept.append(weight[there])
    return NonZeros(torch.cat(index), torch.cat(kept), size, totals)


# ---- in C --------------------------------------------------------------------------------------------------

_SIZES = "items heads n m d top triangular parts strip without_loops columns rows".split()
_STRIDES = "query_example query_head query_row key_example key_head key_row mask_example mask_row".split()
_ARRAYS = """
    query key mask valid x y weight value degree entropy loops value_degree value_log at_queries at_values
""".split()


class _Job(ctypes.Structure):
    """``Capture`` of ``native/capture.c``."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in _SIZES),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_int64) for name in _STRIDES),
        *((name, ctypes.c_void_p) for name in _ARRAYS),
        ("failed", ctypes.c_int32),
    )


def _fits(scores: AttentionScores) -> bool:
    """Whether the C kernel supports the request."""
    b, h, n, m, d = scores.shape
    return (
        scores.query.device.type == "cpu"
        and widen(scores.query).dtype == widen(scores.key).dtype == torch.float32
        and not isinstance(scores.scale, Tensor)
        and (scores.mask is None or scores.mask.dtype == torch.bool)
        and max(b * h * n, m, d) < 2**31
        and min(b, h, n, m, d) > 0
    )


def _in_c(
    scores: AttentionScores,
    top_k: int,
    values: Tensor | None,
    queries: Tensor | None,
    logs: bool,
    self_loops: bool,
) -> Sweep:
    assert not isinstance(scores.scale, Tensor)
    b, h, n, m, d = scores.shape
    items, threads = b * h, torch.get_num_threads()
    parts = 1 if items >= threads else min(-(-2 * threads // items), -(-n // ROWS[1]))
    query, key = (widen(x) for x in (scores.query, scores.key))
    query, key = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key))
    mask = None if scores.mask is None else scores.mask.expand(b, 1, n, m)[:, 0]
    mask = mask if mask is None or mask.stride(-1) == 1 else mask.contiguous()
    arrays: dict[str, Tensor | None] = {
        "query": query,
        "key": key,
        "mask": mask,
        "valid": None if scores.query_mask is None else scores.query_mask.contiguous(),
        "x": values,
        "y": queries,
        "weight": query.new_empty(b, h, n, top_k),
        "value": query.new_empty(b, h, n, top_k, dtype=torch.int32),
        "degree": query.new_empty(b, h, n),
        "entropy": query.new_empty(b, h, n),
        "loops": query.new_empty(b, h, n) if logs else None,
        "value_degree": query.new_empty(b, h, parts, m, dtype=torch.float64),
        "value_log": query.new_empty(b, h, parts, m, dtype=torch.float64) if logs else None,
        "at_queries": None if values is None else query.new_empty(b, h, n, values.shape[-1]),
        "at_values": None if queries is None else query.new_empty(b, h, parts, m, queries.shape[-1]),
    }
    strip = max(ROWS[0], min(ROWS[1], STRIP // m))
    sizes = (items, h, n, m, d, top_k, scores.triangular, parts, strip, not self_loops)
    columns = [0 if x is None else x.shape[-1] for x in (values, queries)]
    strides = (*query.stride()[:3], *key.stride()[:3], *((0, 0) if mask is None else mask.stride()[:2]))
    job = _Job(*sizes, *columns, scores.scale, *strides, *map(pointer, arrays.values()))
    call("attngraph_capture", ctypes.byref(job), threads)

    def joined(name: str, scale: float = 1.0) -> Tensor | None:
        x = arrays[name]
        return None if x is None else (x.sum(2) if parts > 1 else x[:, :, 0]).mul_(scale).float()

    degree, entropy, weight, value = (arrays[x] for x in ("degree", "entropy", "weight", "value"))
    value_degree = joined("value_degree")
    assert not any(x is None for x in (degree, entropy, weight, value, value_degree))
    totals = Totals(degree, value_degree, entropy)  # type: ignore[arg-type]
    heaviest = _non_zeros(weight, value, m, totals) if top_k else None  # type: ignore[arg-type]
    log_2 = torch.tensor(2.0).log().item()
    return Sweep(
        totals,
        heaviest,
        joined("value_log", log_2),
        arrays["loops"],
        arrays["at_queries"],
        joined("at_values"),
    )
