r"""Message passing without an array of all edges: everything per edge is computed a tile at a time, again in the backward
pass, from queries, keys and the row normaliser :math:`\log \sum_j e^{s_{ij}}`, as in flash attention.

Memory grows linearly with the number of nodes. Any scheme written against :class:`attngraph.edges.Edges` runs unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from attngraph.backends.per_edge import Leaf, PerEdge, Values
from attngraph.backends.tiles import RowSums, Tile, columns_of_tiles
from attngraph.edges import Edges
from attngraph.graph import AttentionGraph, _wide
from attngraph.scores import LOG2_E, AttentionScores

TILE = 2**18  # edges of a tile, all examples and heads together: 1 MB per array in float32


class TiledEdges(Edges):
    """The edges of scores or of a graph, as expressions; see :class:`attngraph.backends.per_edge.PerEdge`.

    Raises:
        ValueError: :meth:`to_dense` of scores, which asks for an array of all edges.
    """

    def __init__(self, graph: AttentionGraph | AttentionScores):
        super().__init__(graph)
        self.shape = torch.Size(graph.shape[:4])
        self.like = self.shape, self.query.dtype, self.query.device
        if isinstance(graph, AttentionScores):
            self.weight = _Weight(self, graph)
        else:
            self.weight = _Operand(_wide(graph.weight), self)

    def tiles(self) -> Iterator[list[Tile]]:
        """See :func:`attngraph.backends.tiles.columns_of_tiles`."""
        b, h, n, m = self.shape
        triangular = isinstance(self.graph, AttentionScores) and self.graph.triangular
        return columns_of_tiles(
            n, m, max(1, math.isqrt(TILE // (b * h))), max(1, TILE // (b * h)), triangular
        )

    def query_degree(self) -> PerEdge:
        return _Operand(self.graph.query_degree(), self)

    def value_degree(self, degree: str) -> PerEdge:
        if self.causal:
            total = _Running(self)
        else:
            total = _Operand(self.sum_at_values(self.weight).transpose(-1, -2), self)
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

    def products(self, query: Tensor, value: Tensor) -> tuple[PerEdge, PerEdge, PerEdge]:
        query_g = self.with_metric(query)
        norms_q = (query_g * query).sum(-1, keepdim=True)
        norms_v = (self.with_metric(value) * value).sum(-1)[..., None, :]
        return _Operand(norms_q, self), _Operand(norms_v, self), _Product(query_g, value, self)

    def to_dense(self, per_edge: PerEdge) -> Tensor:
        if isinstance(self.graph, AttentionScores):
            raise ValueError(
                "the edge weights of a scheme are an array of all edges, which the tiled backend never makes: "
                "ask for them with scheme.reweight(scores.graph())"
            )
        whole = Tile(slice(None), slice(None))
        carry = self._first_carry(whole) if self.causal else None
        return (
            Values(whole, {id(leaf.tensor): leaf.tensor for leaf in per_edge.leaves()}, carry)
            .of(per_edge)
            .expand(self.shape)
        )

    def _sum(self, per_edge: PerEdge, features: Tensor | None, at_queries: bool) -> Tensor:
        leaves = {id(leaf.tensor): leaf for leaf in per_edge.leaves()}
        tensors = [leaf.tensor for leaf in leaves.values()]
        return _TileSum.apply(self, per_edge, list(leaves.values()), at_queries, features, *tensors)

    def _first_carry(self, tile: Tile) -> Tensor:
        past = self.graph.past_degree
        if past is not None:
            return past.total[:, :, None, tile.columns].to(self.query.dtype).detach()
        b, h, _, m = self.shape
        return self.query.new_zeros(b, h, 1, len(range(m)[tile.columns]))


class _Operand(PerEdge):
    """A tensor as an expression. Numbers per query and per value are expressions too: their sum would hold all edges."""

    def __init__(self, tensor: Tensor, edges: TiledEdges):
        super().__init__(lambda x: x, (tensor,), {}, *edges.like)


class _Product(PerEdge):
    r""":math:`q_i v_j^\top`."""

    def __init__(self, query: Tensor, value: Tensor, edges: TiledEdges):
        super().__init__(None, (), {}, *edges.like)
        self.query, self.value = (
            query,
            value.view_as(value),
        )  # a leaf of its own, even if it is the same tensor

    def own_leaves(self) -> Iterator[Leaf]:
        return iter((Leaf(self.query, -2, None), Leaf(self.value, None, -2)))

    def evaluate(self, values: Values) -> Tensor:
        return values.of(self.query) @ values.of(self.value).transpose(-1, -2)


class _Weight(_Product):
    r"""Attention weights :math:`2^{s - \ell}` from scores and row normaliser, in base 2."""

    def __init__(self, edges: TiledEdges, scores: AttentionScores):
        query = edges.query if scores.feature is None else _wide(scores.query)
        super().__init__(query * (scores.scale * LOG2_E), _wide(scores.key), edges)
        self.scores = scores
        self.log_sum = _LogSum.apply(self, edges, self.query, self.value)

    def own_leaves(self) -> Iterator[Leaf]:
        yield from super().own_leaves()
        yield Leaf(self.log_sum, -2, None)

    def logits(self, query: Tensor, key: Tensor, tile: Tile) -> Tensor:
        """Scores of a tile to base 2."""
        return self.scores.mask_(query @ key.transpose(-1, -2), *tile, unit=LOG2_E)

    def evaluate(self, values: Values) -> Tensor:
        logits = self.logits(values.of(self.query), values.of(self.value), values.tile)
        return (logits - values.of(self.log_sum)).exp2()


class _Running(PerEdge):
    r"""Value degrees of ordered queries, :math:`e_{ij} = \sum_{i' \le i} M_{i'j}`."""

    def __init__(self, edges: TiledEdges):
        super().__init__(None, (edges.weight,), {}, *edges.like)

    def running(self) -> bool:
        return True

    def evaluate(self, values: Values) -> Tensor:
        total = values.carry + values.of(self.args[0]).cumsum(-2)
        values.after = total[:, :, -1:]
        return total


class _LogSum(torch.autograd.Function):
    r""":math:`\ell_i = \log_2 \sum_j 2^{s_{ij}}`, ``(b, h, n, 1)``; 0 for a query that sees nothing."""

    @staticmethod
    def forward(ctx, weight, edges, query, key):
        sums = RowSums(query.new_empty((*query.shape[:3], 1)))
        for tiles in edges.tiles():
            for tile in tiles:
                sums.add(tile, weight.logits(query[:, :, tile.rows], key[:, :, tile.columns], tile))
        out = sums.log2()
        ctx.save_for_backward(query, key, out)
        ctx.weight, ctx.edges = weight, edges
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        query, key, out = ctx.saved_tensors
        grad_query, grad_key = torch.zeros_like(query), torch.zeros_like(key)
        for tiles in ctx.edges.tiles():
            for tile in tiles:
                q, k = query[:, :, tile.rows], key[:, :, tile.columns]
                share = (
                    ctx.weight.logits(q, k, tile)
                    .sub_(out[:, :, tile.rows])
                    .exp2_()
                    .mul_(grad[:, :, tile.rows])
                )
                grad_query[:, :, tile.rows] += share @ k
                grad_key[:, :, tile.columns] += share.transpose(-1, -2) @ q
        return None, None, grad_query, grad_key


class _TileSum(torch.autograd.Function):
    """Sum over edges of an expression times features, a tile at a time; the backward pass evaluates the tiles again."""

    @staticmethod
    def forward(ctx, edges, expression, leaves, at_queries, features, *tensors):
        b, h, n, m = edges.shape
        width = 1 if features is None else features.shape[-1]
        out = edges.query.new_zeros(b, h, n if at_queries else m, width)
        ctx.running = expression.running()
        for tiles in edges.tiles():
            carry = edges._first_carry(tiles[0]) if ctx.running and tiles else None
            for tile in tiles:
                parts = {key: leaf.tensor[leaf.index(tile)] for key, leaf in _by_id(leaves)}
                values = Values(tile, parts, carry)
                part = _tile_sum(
                    values.of(expression), _features(features, tile, at_queries), at_queries, tile, edges
                )
                out[:, :, tile.rows if at_queries else tile.columns] += part
                carry = values.after if ctx.running else None
        ctx.save_for_backward(features, *tensors)
        ctx.edges, ctx.expression, ctx.leaves, ctx.at_queries = edges, expression, leaves, at_queries
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        features, *tensors = ctx.saved_tensors
        edges, expression, at_queries = ctx.edges, ctx.expression, ctx.at_queries
        need = ctx.needs_input_grad[4:]
        grads = [torch.zeros_like(x) if wanted else None for x, wanted in zip((features, *tensors), need)]
        names = [key for key, _ in _by_id(ctx.leaves)]

        def run(tile, carry, track):
            """The tile's sum, and everything that it depends on, cut loose."""
            cut = [None if features is None else _features(features, tile, at_queries)]
            cut += [x[leaf.index(tile)] for x, leaf in zip(tensors, ctx.leaves)]
            cut = [
                x.detach().requires_grad_(track and wanted) if x is not None else None
                for x, wanted in zip(cut, need)
            ]
            values = Values(tile, dict(zip(names, cut[1:])), carry)
            weight = values.of(expression)
            return cut, values, weight

        for tiles in edges.tiles():
            carries = [edges._first_carry(tiles[0]) if ctx.running and tiles else None]
            if ctx.running:
                for tile in tiles[:-1]:
                    carries.append(run(tile, carries[-1], False)[1].after)
            grad_carry = None
            for tile, carry in zip(
                reversed(tiles), reversed(carries if ctx.running else carries * len(tiles))
            ):
                with torch.enable_grad():
                    if carry is not None:
                        carry = carry.detach().requires_grad_()
                    cut, values, weight = run(tile, carry, True)
                    outputs = [_tile_sum(weight, cut[0], at_queries, tile, edges)]
                    above = [grad[:, :, tile.rows if at_queries else tile.columns]]
                    if grad_carry is not None:
                        outputs.append(values.after)
                        above.append(grad_carry)
                wanted = [k for k, x in enumerate(cut) if x is not None and x.requires_grad]
                inputs = [cut[k] for k in wanted] + ([carry] if ctx.running else [])
                if not outputs[0].requires_grad:
                    continue
                found = torch.autograd.grad(outputs, inputs, above, allow_unused=True)
                if ctx.running:
                    grad_carry = found[-1]
                for k, part in zip(wanted, found):
                    if part is None:
                        continue
                    if k == 0:
                        grads[0][:, :, tile.columns if at_queries else tile.rows] += part
                    else:
                        grads[k][ctx.leaves[k - 1].index(tile)] += part
        return None, None, None, None, *grads


def _by_id(leaves: list[Leaf]) -> list[tuple[int, Leaf]]:
    return [(id(leaf.tensor), leaf) for leaf in leaves]


def _features(features: Tensor | None, tile: Tile, at_queries: bool) -> Tensor | None:
    return None if features is None else features[:, :, tile.columns if at_queries else tile.rows]


def _tile_sum(
    weight: Tensor, features: Tensor | None, at_queries: bool, tile: Tile, edges: TiledEdges
) -> Tensor:
    b, h, n, m = edges.shape
    weight = weight.expand(b, h, len(range(n)[tile.rows]), len(range(m)[tile.columns]))
    if features is None:
        return weight.sum(-1, keepdim=True) if at_queries else weight.sum(-2)[..., None]
    return (weight if at_queries else weight.transpose(-1, -2)) @ features
