r"""Message passing without an array of all edges.

Everything per edge is computed a tile at a time, again in the backward pass, from queries, keys and the row
normaliser :math:`\log \sum_j e^{s_{ij}}`, as in flash attention. Memory grows linearly with the number of
nodes. Any scheme written against :class:`attngraph.edges.Edges` runs unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attngraph.backends.per_edge import Cut, Leaf, Operand, PerEdge, Space, Values
from attngraph.backends.tiles import WHOLE, RowSums, Tile, columns_of_tiles
from attngraph.differentiate import again
from attngraph.edges import Edges
from attngraph.graph import AttentionGraph
from attngraph.precision import widen
from attngraph.scores import LOG2_E, AttentionScores

TILE = 2**18  # edges of a tile, all examples and heads together: 1 MB per array in float32


class TiledEdges(Edges):
    """The edges of scores or of a graph, as expressions; see :class:`attngraph.backends.per_edge.PerEdge`.

    Raises:
        ValueError: :meth:`to_dense` of scores, which asks for an array of all edges; or scores under dropout.
    """

    def __init__(self, graph: AttentionGraph | AttentionScores):
        super().__init__(graph)
        past = graph.past_degree
        triangular = isinstance(graph, AttentionScores) and graph.triangular
        self.shape = torch.Size(graph.shape[:4])
        self.space = Space(self.shape, self.query.dtype, self.query.device)
        self.tiling = _Tiling(self.space, triangular, None if past is None else past.total)
        if isinstance(graph, AttentionScores):
            graph.refuse_dropout()
            self.weight = _Weight(self, graph)
        else:
            self.weight = Operand(widen(graph.weight), self.space)

    def query_degree(self) -> PerEdge:
        return Operand(self.graph.query_degree(), self.space)

    def value_degree(self, degree: str) -> PerEdge:
        total: Any  # an expression
        if isinstance(self.graph, AttentionGraph) and self.graph.span is not None:
            return Operand(self.graph.value_degree(degree), self.space)
        if self.causal:
            total = _Running(self)
        else:
            total = Operand(self.sum_at_values(self.weight).transpose(-1, -2), self.space)
        scale = self.graph.degree_scale(degree)
        return total if scale is None else total * scale

    def to_queries(self, per_edge: PerEdge, value: Tensor) -> Tensor:
        return self._sum(per_edge, value, at_queries=True)

    def to_values(self, per_edge: PerEdge, query: Tensor) -> Tensor:
        return self._sum(per_edge, query, at_queries=False)

    def sum_at_queries(self, per_edge: PerEdge) -> Tensor:
        return self._sum(per_edge, None, at_queries=True)

    def sum_at_values(self, per_edge: PerEdge) -> Tensor:
        return self._sum(per_edge, None, at_queries=False)

    def products(
        self, query: Tensor, value: Tensor, between: Tensor | None = None
    ) -> tuple[PerEdge, PerEdge, PerEdge]:
        query_g = self.with_metric(query)
        norms_q = (query_g * query).sum(-1, keepdim=True)
        norms_v = self.square_norm(value)[..., None, :]
        pair = query_g if between is None else query @ between
        return (  # norms are expressions too: the sum of two tensors would hold all edges
            Operand(norms_q, self.space),
            Operand(norms_v, self.space),
            _Product(pair, value, self.space),
        )

    def to_dense(self, per_edge: PerEdge) -> Tensor:
        if isinstance(self.graph, AttentionScores):
            raise ValueError(
                "the edge weights of a scheme are an array of all edges, which the tiled backend never "
                "makes: ask for them with scheme.reweight(scores.graph())"
            )
        expression, tensors, _ = per_edge.apart()
        values = Values(WHOLE, tensors, self.tiling.first_carry(WHOLE) if self.causal else None)
        return values.of(expression).expand(self.shape)

    def _sum(self, per_edge: PerEdge, features: Tensor | None, at_queries: bool) -> Tensor:
        expression, tensors, cuts = per_edge.apart()
        return _TileSum.apply(_Sum(self.tiling, expression, cuts, at_queries), features, *tensors)


class _Tiling(NamedTuple):
    """Which tiles there are, and what was before them."""

    space: Space
    triangular: bool
    past: Tensor | None  # sums of the weights of earlier decoding steps' queries, (b, h, m)

    def tiles(self) -> Iterator[list[Tile]]:
        """See :func:`attngraph.backends.tiles.columns_of_tiles`."""
        b, h, n, m = self.space.shape
        size = TILE // max(1, b * h)
        return columns_of_tiles(n, m, max(1, math.isqrt(size)), max(1, size), self.triangular)

    def first_carry(self, tile: Tile) -> Tensor:
        """The sums of the weights of earlier decoding steps' queries on the tile's values, ``(b, h, 1,
        columns)``."""
        b, h, _, m = self.space.shape
        if self.past is not None:
            return self.past[:, :, None, tile.columns].to(self.space.dtype).detach()
        columns = len(range(m)[tile.columns])
        return torch.zeros(b, h, 1, columns, dtype=self.space.dtype, device=self.space.device)


class _Product(PerEdge):
    r""":math:`q_i v_j^\top`."""

    def __init__(self, query: Tensor, value: Tensor, space: Space):
        super().__init__(space, (Leaf(query, -2, None), Leaf(value, None, -2)))

    def evaluate(self, values: Values) -> Tensor:
        query, value = map(values.of, self.args)
        return query @ value.transpose(-1, -2)


class _Weight(PerEdge):
    r"""Attention weights :math:`2^{s - \ell}` from scores and row normaliser, in base 2."""

    def __init__(self, edges: TiledEdges, scores: AttentionScores):
        query = edges.query if scores.feature is None else widen(scores.query)
        query, key = query * (scores.scale * LOG2_E), widen(scores.key)
        self.scores = replace(scores.without_features(), scale=1.0)  # queries are scaled already
        log_sum = _LogSum.apply(self.scores, edges.tiling, query, key)
        super().__init__(edges.space, (Leaf(query, -2, None), Leaf(key, None, -2), Leaf(log_sum, -2, None)))

    def evaluate(self, values: Values) -> Tensor:
        query, key, log_sum = map(values.of, self.args)
        return (_logits(self.scores, query, key, values.tile) - log_sum).exp2()


def _logits(scores: AttentionScores, query: Tensor, key: Tensor, tile: Tile) -> Tensor:
    """Scores of a tile to base 2, with the mask of ``scores``."""
    return scores.mask_(query @ key.transpose(-1, -2), *tile, unit=LOG2_E)


class _Running(PerEdge):
    r"""Value degrees of ordered queries, :math:`e_{ij} = \sum_{i' \le i} M_{i'j}`."""

    def __init__(self, edges: TiledEdges):
        super().__init__(edges.space, (edges.weight,))

    def running(self) -> bool:
        return True

    def evaluate(self, values: Values) -> Tensor:
        total = values.of(self.args[0]).cumsum(-2)
        if values.carry is not None:
            total = values.carry + total
        values.after = total[:, :, -1:]
        return total


class _LogSum(torch.autograd.Function):
    r""":math:`\ell_i = \log_2 \sum_j 2^{s_{ij}}`, ``(b, h, n, 1)``; 0 for a query that sees nothing."""

    @staticmethod
    def forward(ctx, scores, tiling, query, key):
        sums = RowSums(query.new_empty((*query.shape[:3], 1)))
        for tiles in tiling.tiles():
            for tile in tiles:
                sums.add(tile, _logits(scores, query[:, :, tile.rows], key[:, :, tile.columns], tile))
        out = sums.log2()
        ctx.save_for_backward(query, key, out)
        ctx.scores, ctx.tiling = scores, tiling
        return out

    @staticmethod
    def backward(ctx, grad):
        """In operations that can be differentiated again."""
        query, key, out = ctx.saved_tensors
        grad_query, grad_key = torch.zeros_like(query), torch.zeros_like(key)
        for tiles in ctx.tiling.tiles():
            for tile in tiles:
                q, k = query[:, :, tile.rows], key[:, :, tile.columns]
                logits = _logits(ctx.scores, q, k, tile)
                share = logits.sub_(out[:, :, tile.rows]).exp2_() * grad[:, :, tile.rows]
                grad_query[:, :, tile.rows] += share @ k
                grad_key[:, :, tile.columns] += share.transpose(-1, -2) @ q
        return None, None, grad_query, grad_key


class _Sum(NamedTuple):
    """A sum over edges, of an expression times features. It holds no tensors of its own."""

    tiling: _Tiling
    expression: PerEdge
    cuts: list[Cut]
    at_queries: bool  # a sum per query, of value features; else the other way round

    def target(self, tile: Tile) -> slice:
        """The nodes of a tile that sums belong to."""
        return tile.rows if self.at_queries else tile.columns

    def source(self, tile: Tile) -> slice:
        """The nodes of a tile whose features are summed."""
        return tile.columns if self.at_queries else tile.rows

    def parts(self, tensors: Sequence[Tensor], tile: Tile) -> list[Tensor]:
        """The tile's part of each of the expression's tensors."""
        return [x[cut.at(tile)] for x, cut in zip(tensors, self.cuts)]

    def on_all(self, features: Tensor | None, *tensors: Tensor) -> tuple[Tensor]:
        """The sums at once, in operations that autograd records."""
        carry = self.tiling.first_carry(WHOLE) if self.expression.running() else None
        return (self.on_tile(Values(WHOLE, tensors, carry), features),)

    def on_tile(self, values: Values, features: Tensor | None) -> Tensor:
        """The tile's sums, from the tile's features."""
        b, h, n, m = self.tiling.space.shape
        rows, columns = len(range(n)[values.tile.rows]), len(range(m)[values.tile.columns])
        weight = values.of(self.expression).expand(b, h, rows, columns)
        if features is None:
            return weight.sum(-1, keepdim=True) if self.at_queries else weight.sum(-2)[..., None]
        return (weight if self.at_queries else weight.transpose(-1, -2)) @ features


class _TileSum(torch.autograd.Function):
    """:class:`_Sum`, a tile at a time; the backward pass evaluates the tiles again."""

    @staticmethod
    def forward(ctx, total: _Sum, features: Tensor | None, *tensors: Tensor):
        tiling, ((b, h, n, m), dtype, device) = total.tiling, total.tiling.space
        width = 1 if features is None else features.shape[-1]
        out = torch.zeros(b, h, n if total.at_queries else m, width, dtype=dtype, device=device)
        ctx.running = total.expression.running()
        for tiles in tiling.tiles():
            carry = tiling.first_carry(tiles[0]) if ctx.running and tiles else None
            for tile in tiles:
                values = Values(tile, total.parts(tensors, tile), carry)
                cut = None if features is None else features[:, :, total.source(tile)]
                out[:, :, total.target(tile)] += total.on_tile(values, cut)
                carry = values.after
        ctx.save_for_backward(features, *tensors)
        ctx.total = total
        return out

    @staticmethod
    def backward(ctx, grad):
        features, *tensors = ctx.saved_tensors
        total: _Sum = ctx.total
        needed = ctx.needs_input_grad[1:]
        inputs = (features, *tensors)
        if torch.is_grad_enabled():  # to be differentiated again
            return None, *again(total.on_all, inputs, needed, (grad,))
        grads: list[Any] = [torch.zeros_like(x) if need else None for x, need in zip(inputs, needed)]

        for tiles in total.tiling.tiles():
            carries = _carries(total, tensors, tiles) if ctx.running else [None] * len(tiles)
            grad_carry: Tensor | None = None
            for tile, carry in zip(reversed(tiles), reversed(carries)):
                with torch.enable_grad():
                    carry = None if carry is None else carry.detach().requires_grad_()
                    cut: list[Any] = [None if features is None else features[:, :, total.source(tile)]]
                    cut += total.parts(tensors, tile)
                    cut = [x if x is None else x.detach().requires_grad_(k) for x, k in zip(cut, needed)]
                    values = Values(tile, cut[1:], carry)
                    outputs: list[Any] = [total.on_tile(values, cut[0])]
                    above = [grad[:, :, total.target(tile)]]
                    if grad_carry is not None:
                        outputs.append(values.after)
                        above.append(grad_carry)
                if not outputs[0].requires_grad:
                    continue
                wanted = [k for k, x in enumerate(cut) if x is not None and x.requires_grad]
                sources = [cut[k] for k in wanted] + ([carry] if ctx.running else [])
                parts = torch.autograd.grad(outputs, sources, above, allow_unused=True)
                if ctx.running:
                    grad_carry = parts[-1]
                for k, part in zip(wanted, parts):
                    if part is None:
                        continue
                    place = total.cuts[k - 1].at(tile) if k else (..., total.source(tile), slice(None))
                    grads[k][place] += part
        return None, *grads


@torch.no_grad()
def _carries(total: _Sum, tensors: Sequence[Tensor], tiles: list[Tile]) -> list:
    """Before each of the tiles with the same values, the sums of the weights of earlier queries."""
    carries: list = [total.tiling.first_carry(tiles[0])] if tiles else []
    for tile in tiles[:-1]:
        values = Values(tile, total.parts(tensors, tile), carries[-1])
        values.of(total.expression)
        carries.append(values.after)
    return carries
