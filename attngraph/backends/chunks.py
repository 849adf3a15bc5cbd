r"""Message passing in memory that is linear in the number of nodes: some queries at a time.

Each chunk of queries is a separate dense graph, whose edges are computed again in the backward
pass (:func:`torch.utils.checkpoint.checkpoint`). Sums at queries need their own chunk only; sums at values
need all of them:

- in a causal graph, value degrees come from the queries before: each chunk starts with the degrees that its
  predecessors left, as a step of decoding does;
- any other sum at values (degrees in a graph without order, messages to values) takes a pass over all chunks
  that ends there. The next pass starts from the beginning, with that sum. So a scheme with :math:`s` such
  sums runs :math:`s + 1` times on each chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attngraph.backends.dense import DenseEdges
from attngraph.degrees import PastDegree
from attngraph.edges import Edges
from attngraph.functorch import transformed
from attngraph.graph import AttentionGraph
from attngraph.norms import KeptNorms
from attngraph.precision import widen
from attngraph.scores import AttentionScores, cut_mask

EDGES = 2**19  # of a chunk, all examples and heads together: 2 MB per array in float32
LEAST, MOST = 16, 128  # queries of a chunk: what all chunks hold together grows with their number
FEATURES = ("query", "key", "value", "feature", "weight", "metric", "scale")
Propagate = Callable[[Edges], Tensor]


def in_chunks(
    propagate: Propagate, graph: AttentionGraph | AttentionScores, context: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Query features from ``propagate``, chunk by chunk.

    Args:
        propagate: function from edges to query features ``(b, h, n, d)``. It is called for some of the
            queries at a time, once for each sum at values plus once for the result.
        graph: an attention graph, or scores.
        context: whether the attention output of scores, :math:`M V` of all queries, padded ones too, is
            wanted.

    Returns:
        The query features and the attention output (or None), both ``(b, h, n, d)``. Under the transforms of
        ``torch.func``, and of triangular scores in a graph without order, they come from all edges at once.

    Raises:
        ValueError: scores under dropout.
    """
    if isinstance(graph, AttentionScores):
        graph.refuse_dropout()
    if transformed() or (getattr(graph, "triangular", False) and not graph.causal):
        output = None
        if isinstance(graph, AttentionScores):
            graph, output = graph.graph_and_context() if context else (graph.graph(), None)
        return propagate(DenseEdges(graph)), output
    chunks, sums = _Chunks(graph, propagate, context), []  # type: _Chunks, list[Tensor]
    while True:
        queries, outputs, at_values = [], [], None
        for result in chunks.visit(sums):
            if not result.done:
                at_values = result.sums if at_values is None else at_values + result.sums
                continue
            queries.append(result.sums)
            if result.context is not None:
                outputs.append(result.context)
        if at_values is None:
            return torch.cat(queries, 2), torch.cat(outputs, 2) if outputs else None
        sums.append(at_values)


class _Result(NamedTuple):
    """Result for a chunk of queries.

    Attributes:
        sums: query features; if the chunk is not done, its part of the first sum at values that it lacks.
        done: whether it lacks none.
        context: the attention output of its queries, if that is wanted.
        after: in a causal graph, the value degrees after its queries, if it needed those before.
    """

    sums: Tensor
    done: bool
    context: Tensor | None
    after: PastDegree | None


class _Chunks:
    """A graph in chunks; see :func:`in_chunks`."""

    def __init__(self, graph: AttentionGraph | AttentionScores, propagate: Propagate, context: bool):
        b, h, self.n, self.m, _ = graph.shape
        self.kind, self.propagate, self.context = type(graph), propagate, context
        self.fields: dict[str, Any] = {x.name: getattr(graph, x.name) for x in fields(graph)}
        self.past, value = self.fields.pop("past_degree"), widen(graph.value)
        if graph.causal and self.past is None:
            before = torch.zeros(b, dtype=torch.long, device=value.device)
            self.past = PastDegree(value.new_zeros(b, h, self.m), before)
        # where queries are ordered in blocks, degrees depend on later ones
        blocks = self.fields.pop("span", None) is not None
        self.totals = graph.value_degree("sum") if blocks and isinstance(graph, AttentionGraph) else None
        alone = graph
        if isinstance(graph, AttentionScores):  # of which chunks shall not hold what autograd keeps
            alone = replace(graph.without_features(), scale=1.0)
        self.degree_scale = cache(alone.degree_scale)
        self.norms = None
        if torch.is_grad_enabled():
            self.fields.pop("kept_norms", None)  # the backward pass sees other tensors than those
        self.rows = min(MOST, max(LEAST, EDGES // max(1, b * h * self.m)))
        if self.n > self.rows and self.fields.get("kept_norms") is None:  # else each chunk would compute them
            metric = graph.metric
            value_g = value if metric is None else value @ metric.to(value.dtype)
            self.norms = (value_g * value).sum(-1)

    def visit(self, sums: list[Tensor]) -> Iterator[_Result]:
        """All chunks in order.

        Args:
            sums: at values, in the order in which they are needed; those that are known.
        """
        past = self.past
        for start in range(0, max(1, self.n), self.rows):
            rows = slice(start, min(start + self.rows, self.n))
            chunk, tensors = self.chunk(rows, past)
            if torch.is_grad_enabled():
                result = checkpoint(chunk, *tensors, *sums, use_reentrant=False)
            else:
                result = chunk(*tensors, *sums)
            if result.after is not None and past is not None:
                later = past.total[..., result.after.total.shape[-1] :]
                past = result.after._replace(total=torch.cat([result.after.total, later], -1))
            yield result

    def chunk(self, rows: slice, past: PastDegree | None) -> tuple[_Chunk, list[Tensor]]:
        """Some queries with the values that they may see, and the numbers of these nodes, which autograd is
        to keep, in its own way."""
        triangular = self.fields.get("triangular", False)
        columns = slice(0, max(0, rows.stop + self.m - self.n) if triangular else self.m)
        cut: dict[str, tuple] = {"query_mask": (..., rows), "query_modality": (..., rows)}
        cut |= {name: (..., rows, slice(None)) for name in ("query", "feature", "weight", "scale")}
        cut["known_weight"] = (..., rows, columns)
        if triangular:  # else these stay the same tensors, which kept norms know
            cut |= {name: (..., columns, slice(None)) for name in ("key", "value")}
        given = dict(self.fields)
        for name, x in self.fields.items():
            if not isinstance(x, Tensor):
                continue
            if name == "mask":
                given[name] = cut_mask(x, rows, columns)
            elif name == "value_mask":
                given[name] = x[:, rows] if x.dim() == 3 else x
            elif name in cut and not (name == "scale" and (x.dim() < 2 or x.shape[-2] == 1)):
                given[name] = x[cut[name]]
        numbers = {name: given.pop(name) for name in FEATURES if isinstance(given.get(name), Tensor)}
        if past is not None:
            numbers["past"] = past.total[..., columns]
        if self.totals is not None:
            numbers["totals"] = self.totals[:, :, rows]
        if self.norms is not None:
            numbers["norms"] = self.norms[..., columns]

        def scale(degree: str, whole=self.degree_scale) -> Tensor | None:
            found = whole(degree)
            return found if found is None or past is None else found[:, :, rows]

        queries = None if past is None else past.queries
        made = partial(self.kind, **given)
        return _Chunk(self.propagate, made, list(numbers), queries, self.context, scale), [*numbers.values()]


@dataclass(frozen=True)
class _Chunk:
    """Some queries' graph but for its numbers.

    Attributes:
        propagate, context: as for :func:`in_chunks`.
        made: the graph or the scores, from the fields that are numbers.
        names: of the numbers.
        queries: how many valid queries came before, ``(b,)``, in a causal graph.
        degree_scale: see :meth:`attngraph.AttentionGraph.degree_scale`.
    """

    propagate: Propagate
    made: Callable[..., AttentionGraph | AttentionScores]
    names: list[str]
    queries: Tensor | None
    context: bool
    degree_scale: Callable[[str], Tensor | None]

    def __call__(self, *tensors: Tensor) -> _Result:
        """From the numbers, and the sums at values that are known."""
        numbers: dict[str, Any] = dict(zip(self.names, tensors))
        totals, norms, past = (numbers.pop(name, None) for name in ("totals", "norms", "past"))
        if past is not None and self.queries is not None:
            numbers["past_degree"] = PastDegree(past, self.queries)
        made = self.made(**numbers)
        if isinstance(made, AttentionScores):
            shown = made.without_query_mask() if self.context else made
            weight = shown.weight().to(made.query.dtype)
            graph = made.graph_of(made.without_padded(weight))
        else:
            weight, graph = made.weight, made
        edges = _ChunkEdges(graph, tensors[len(self.names) :], totals, norms, self.degree_scale)
        try:
            sums, done = self.propagate(edges), True
        except _Missing as missing:
            sums, done = missing.part, False
        context = weight @ graph.value if done and self.context else None
        after = graph.degree_after() if edges.degrees_used and graph.shape[2] else None
        return _Result(sums, done, context, after)


class _Missing(BaseException):
    """A sum at values that is not known yet.

    Attributes:
        part: the chunk's part of it.
    """

    def __init__(self, part: Tensor):
        super().__init__()
        self.part = part


class _ChunkEdges(DenseEdges):
    """The edges of some queries, whose sums at values are those over all queries.

    Args:
        graph: of these queries.
        sums: at values over all queries, in the order in which they are needed; those that are known.
        totals: value degrees ``"sum"`` of all edges, where they depend on later queries.
        norms: squared norms of the values, if they are known.
        degree_scale: see :meth:`attngraph.AttentionGraph.degree_scale`.

    Attributes:
        degrees_used: whether value degrees of a causal graph were asked for.
    """

    def __init__(
        self,
        graph: AttentionGraph,
        sums: tuple[Tensor, ...],
        totals: Tensor | None,
        norms: Tensor | None,
        degree_scale: Callable[[str], Tensor | None],
    ):
        super().__init__(graph)
        self._sums, self._totals, self._scale = iter(sums), totals, degree_scale
        self.degrees_used = False
        if norms is not None:
            self._kept_norms = KeptNorms(graph.value, [norms])

    def value_degree(self, degree: str) -> Tensor:
        if self._totals is None and self.causal:
            self._totals, self.degrees_used = self.graph.value_degree("sum"), True
        elif self._totals is None:
            self._totals = self._over_all_queries(lambda: self.graph.value_degree("sum"))
        scale = self._scale(degree)
        return self._totals if scale is None else self._totals * scale

    def to_values(self, per_edge: Tensor, query: Tensor) -> Tensor:
        return self._over_all_queries(lambda: super(_ChunkEdges, self).to_values(per_edge, query))

    def sum_at_values(self, per_edge: Tensor) -> Tensor:
        return self._over_all_queries(lambda: super(_ChunkEdges, self).sum_at_values(per_edge))

    def _over_all_queries(self, part: Callable[[], Tensor]) -> Tensor:
        for known in self._sums:
            return known
        raise _Missing(part())
