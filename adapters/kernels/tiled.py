r"""Attention and one p-Laplacian step without an array of all edges: :mod:`adapters.kernels.fused` for long
sequences.

Every number per edge is computed again, tile by tile, whenever it is needed; memory grows linearly with the
number of nodes. With :math:`w = M^{p/2} R^{p-2}` and :math:`r = 2\mu/p`,

.. math::
    \bar U_i = \alpha_i \Big( \sum_j w_{ij} \frac{\hat V_j}{\sqrt{e_{ij}}} + r \hat V_i \Big), \qquad
    \alpha_i = \Big( \sum_j w_{ij} + r \Big)^{-1} .

The forward pass visits the tiles for the row normalisers, for the value degrees (in a causal graph these are
carried from one tile of queries to the next instead) and for the messages. The backward pass goes through the
messages, which leaves :math:`\partial/\partial \log M = \frac p2 D + M \circ G`. The part :math:`G`, through
the degrees, is known per value only after all queries, or in a causal graph per edge when the queries are
visited backwards. Then it goes through the softmax.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adapters.kernels.distances import Distances, clamp_, distance_gradients
from adapters.kernels.step import PLaplacianStep, StepCall, apply_step, dot
from adapters.kernels.tiles import RowSums, Tile, columns_of_tiles
from adapters.scheme import attention
from attngraph.edges import smallest_weight
from attngraph.precision import widen
from attngraph.scores import LOG2_E, AttentionScores

ROWS = 256  # queries of a tile
TILE = 2**17  # edges of a tile: 0.5 MB per array in float32


def tiled_step(
    scores: AttentionScores,
    p: Tensor | float,
    residual: Tensor | float,
    degree: str = "sum",
    context: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The same as :func:`adapters.kernels.fused.fused_step`, in memory that is linear in the number of nodes.

    Raises:
        ValueError: the metric requires gradients, or there is dropout.
    """
    scores.refuse_dropout()
    if context and scores.query_mask is not None:  # padded queries attend, and have no edges
        aggregated, _ = apply_step(_TiledStep, scores, p, residual, degree, False)
        return aggregated, attention(scores.without_query_mask())
    return apply_step(_TiledStep, scores, p, residual, degree, context)


class _Outputs(NamedTuple):
    """Results of the forward pass; kept for the backward pass."""

    message: Tensor  # g n d: the step's output
    alpha: Tensor  # g n 1
    context: Tensor | None  # g n d: M V


class _Upstream(NamedTuple):
    """Gradients that come from the step's outputs."""

    message: Tensor  # g n d
    context: Tensor | None  # g n d


class _Gradients(NamedTuple):
    """Gradients to which the backward pass adds."""

    query: Tensor  # g n d
    key: Tensor  # g m d
    value: Tensor  # g m d
    feature: Tensor | None  # g n d; None where the query is the feature


def _of_heads(group, heads: slice):
    """Some heads' part of a named tuple of tensors."""
    return type(group)(*(None if x is None else x[heads] for x in group))


class _TiledStep(torch.autograd.Function):
    """The step and its backward pass, a few heads at a time."""

    @staticmethod
    def forward(ctx, query, key, value, feature, p, residual, call: StepCall):
        b, h, n, m, d = call.scores.shape
        step = PLaplacianStep(call, float(p), float(residual))
        like = widen(query[:0])
        outputs = _Outputs(
            like.new_empty(b * h, n, d),
            like.new_empty(b * h, n, 1),
            like.new_zeros(b * h, n, d) if call.context else None,
        )
        log_sum = like.new_empty(b * h, n, 1)
        degrees = like.new_empty(b * h, 0 if step.causal else 1, m)
        for part in _Heads.all(step, (query, key, value, feature), log_sum, degrees):
            part.normalise()
            part.send(_of_heads(outputs, part.heads))
        ctx.save_for_backward(query, key, value, feature, p, residual, log_sum, degrees, *outputs)
        ctx.step = step
        out = outputs.message.to(query.dtype).view(query.shape)
        if outputs.context is None:
            return out
        return out, outputs.context.to(query.dtype).view(query.shape)

    @staticmethod
    def backward(ctx, grad_out, grad_context=None):
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            return ctx.step.backward_again(saved[:6], ctx.needs_input_grad, (grad_out, grad_context))
        inputs, (log_sum, degrees), outputs = saved[:4], saved[6:8], _Outputs(*saved[8:])
        zeros = (None if x is None else log_sum.new_zeros(x.flatten(0, 1).shape) for x in inputs)
        grads = _Gradients._make(zeros)
        upstream = _Upstream._make(None if x is None else x.flatten(0, 1) for x in (grad_out, grad_context))
        grad_p, grad_residual = log_sum.new_zeros(()), log_sum.new_zeros(())
        for part in _Heads.all(ctx.step, inputs, log_sum, degrees):
            above = _Upstream._make(None if x is None else widen(x) for x in _of_heads(upstream, part.heads))
            more = part.backward(above, _of_heads(outputs, part.heads), _of_heads(grads, part.heads))
            grad_p, grad_residual = grad_p + more[0], grad_residual + more[1]
        out = (None if grad is None else grad.to(x.dtype).view(x.shape) for x, grad in zip(inputs, grads))
        return *out, grad_p, grad_residual, None


class _Heads:
    """A few heads, whose edges are visited tile by tile.

    Args:
        step: whose edges they are.
        heads: which of the ``g`` heads.
        features: these heads' queries, keys, values and the query nodes' features (None: the queries),
            ``(g, ., d)``.
        log_sum: the row normalisers or room for them, ``(g, n, 1)``.
        degrees: the value degrees or room for them, ``(g, 1, m)``; without rows in a causal graph.
    """

    def __init__(
        self,
        step: PLaplacianStep,
        heads: slice,
        features: list[Any],
        log_sum: Tensor,
        degrees: Tensor,
    ):
        self.step, self.heads, self.log_sum, self.degrees = step, heads, log_sum, degrees
        query, key, value, feature = features
        self.query, self.key, self.value = widen(query), widen(key), widen(value)
        self.node = self.query if feature is None else widen(feature)
        self.scaled = self.query * (step.scale * LOG2_E)
        self.query_g = step.with_metric(self.node, heads)
        self.norm_q = dot(self.query_g, self.node)
        self.norm_v = dot(step.with_metric(self.value, heads), self.value).transpose(-1, -2)

    @staticmethod
    def all(
        step: PLaplacianStep, inputs: tuple[Tensor | None, ...], log_sum: Tensor, degrees: Tensor
    ) -> Iterator[_Heads]:
        """All heads, a few at a time.

        Args:
            step: whose edges they are.
            inputs: queries, keys, values and features, ``(b, h, ., d)``, strided or not.
            log_sum, degrees: of all heads.
        """
        features = [None if x is None else x.flatten(0, 1) for x in inputs]
        size = max(1, TILE // (log_sum.shape[1] * degrees.shape[2]))
        for start in range(0, step.count, size):
            heads = slice(start, min(start + size, step.count))
            part = [None if x is None else x[heads] for x in features]
            yield _Heads(step, heads, part, log_sum[heads], degrees[heads])

    def columns(self) -> Iterator[list[Tile]]:
        """See :func:`adapters.kernels.tiles.columns_of_tiles`.

        In a causal graph, degrees per edge need room in the cache too.
        """
        size = TILE * 5 // 8 if self.step.causal else TILE
        n, m = self.query.shape[1], self.key.shape[1]
        return columns_of_tiles(n, m, ROWS, size, self.step.scores.triangular)

    def logits(self, tile: Tile) -> Tensor:
        """Masked scores to base 2."""
        out = torch.bmm(self.scaled[:, tile.rows], self.key[:, tile.columns].transpose(-1, -2))
        return self.step.mask_(out, self.heads, tile)

    def log_weight(self, tile: Tile) -> Tensor:
        """log2 M."""
        return self.logits(tile).sub_(self.log_sum[:, tile.rows])

    def normalise(self) -> None:
        """Compute the row normalisers, and the value degrees unless they depend on the query."""
        sums = RowSums(self.log_sum)
        for tiles in self.columns():
            for tile in tiles:
                sums.add(tile, self.logits(tile))
        self.log_sum.copy_(sums.log2())
        if not self.step.causal:
            self.degrees.zero_()
            for tiles in self.columns():
                for tile in tiles:
                    self.degrees[:, :, tile.columns] += self.log_weight(tile).exp2_().sum(-2, keepdim=True)

    def first_carry(self, tile: Tile) -> Tensor:
        """The degrees that queries decoded earlier left at a tile's values."""
        past = self.step.past
        return self.norm_v.new_zeros(()) if past is None else past[self.heads, :, tile.columns]

    def value_degrees(self, weight: Tensor | None, tile: Tile, carry: Tensor | None) -> tuple[Tensor, Tensor]:
        r"""Sums of weights at the values and :math:`1/\sqrt e` of a tile.

        Args:
            weight: the tile's weights, in a causal graph.
            tile: which edges.
            carry: the degrees with which the tile begins, in a causal graph.
        """
        if carry is None or weight is None:
            total = self.degrees[:, :, tile.columns].clamp(min=smallest_weight(self.degrees.dtype))
        else:
            total = weight.cumsum(-2).add_(carry).clamp_(min=smallest_weight(weight.dtype))
        return total, self.step.rsqrt_degree(total, self.heads, tile.rows)

    def distances(self, tile: Tile, rsqrt_e: Tensor) -> Distances:
        """Clamped distances of a tile."""
        lengths = self.norm_v[:, :, tile.columns] * rsqrt_e
        square = torch.baddbmm(
            lengths, self.query_g[:, tile.rows], self.value[:, tile.columns].transpose(-1, -2), alpha=-2
        )
        square.mul_(rsqrt_e).add_(self.norm_q[:, tile.rows])
        lengths.mul_(rsqrt_e)
        norm_q = self.norm_q[:, tile.rows]
        return Distances(square, rsqrt_e, lengths, norm_q, clamp_(square, norm_q, lengths))

    def send(self, outputs: _Outputs) -> None:
        """Send the messages to the queries; fills ``outputs``."""
        residual = self.step.residual
        message, alpha, context = outputs
        message.zero_()
        alpha.fill_(residual)
        for tiles in self.columns():
            carry = self.first_carry(tiles[0]) if self.step.causal else None
            for tile in tiles:
                value = self.value[:, tile.columns]
                sums = self.log_weight(tile)
                weight = sums.exp2() if carry is not None or context is not None else None
                if context is not None and weight is not None:
                    context[:, tile.rows].baddbmm_(weight, value)
                total, rsqrt_e = self.value_degrees(weight, tile, carry)
                carry = None if carry is None else total[:, -1:]
                power = self.powers(sums, self.distances(tile, rsqrt_e).square.log_())
                alpha[:, tile.rows] += power.sum(-1, keepdim=True)
                message[:, tile.rows].baddbmm_(power.mul_(rsqrt_e), value)
        message.add_(self.node, alpha=residual)
        alpha.copy_(torch.where(alpha < torch.finfo(alpha.dtype).tiny, 0, 1 / alpha))
        message.mul_(alpha)

    def backward(self, upstream: _Upstream, outputs: _Outputs, grads: _Gradients) -> tuple[Tensor, Tensor]:
        """Add to ``grads``; returns the gradients of p and of the residual."""
        step, two_half = self.step, self.step.p - 2
        grad_node = grads.query if grads.feature is None else grads.feature
        through = _ThroughMessages(
            outputs.alpha * upstream.message, torch.zeros_like(outputs.message), self.norm_v
        )
        grad_sum = -dot(through.message, outputs.message)  # of Σ_j w_ij
        grad_residual = grad_sum.sum() + (through.message * self.node).sum()
        grad_node.add_(through.message, alpha=step.residual)
        grad_p = grad_residual.new_zeros(())
        for tiles in self.columns():
            carries = self.carries(tiles)
            later: Tensor | float = 0.0  # gradient of the degrees with which the next tile began
            for tile, carry in zip(reversed(tiles), reversed(carries)):
                more, later = self.through_messages(tile, carry, later, grad_sum, through, grads)
                grad_p = grad_p + more
        grad_node.add_(step.with_metric(through.query_g, self.heads), alpha=-two_half)
        grad_node.addcmul_(self.query_g, through.norm_q, value=two_half)
        value_g = step.with_metric(self.value, self.heads)
        grads.value.addcmul_(value_g, through.norm_v.transpose(-1, -2), value=two_half)
        self.through_softmax(upstream.context, outputs.context, through, grads)
        return 0.5 * math.log(2) * grad_p, grad_residual

    def through_messages(
        self,
        tile: Tile,
        carry: Tensor | None,
        later: Tensor | float,
        grad_sum: Tensor,
        through: _ThroughMessages,
        grads: _Gradients,
    ) -> tuple[Tensor, Tensor | float]:
        """Back from a tile's messages to log M, distances and degrees; adds to ``through`` and ``grads``.

        Args:
            tile: which edges.
            carry: the degrees with which the tile began, in a causal graph.
            later: the gradient of the degrees with which the next tile began.
            grad_sum: gradient of the sums of w, ``(g, n, 1)``.

        Returns:
            The tile's part of the gradient of p over log(2)/2, and ``later`` for the tile before.
        """
        rows, columns = tile
        value, up = self.value[:, columns], through.message[:, rows]
        sums = self.log_weight(tile)
        weight = None if carry is None else sums.exp2()
        total, rsqrt_e = self.value_degrees(weight, tile, carry)
        distances = self.distances(tile, rsqrt_e)
        power = self.powers(sums, distances.square.log())
        # gradient of log w
        grad_log_weight = (
            torch.bmm(up, value.transpose(-1, -2)).mul_(rsqrt_e).add_(grad_sum[:, rows]).mul_(power)
        )
        grad_p = torch.dot(grad_log_weight.view(-1), sums.view(-1))
        near, norm_q, norm_v, degree = distance_gradients(
            self.step, grad_log_weight, power, -grad_sum[:, rows], distances
        )
        through.norm_q[:, rows] += norm_q
        through.norm_v[:, :, columns] += norm_v
        if weight is None:
            through.degree[:, :, columns] += degree
        else:
            grad_degrees = degree.div_(total).mul_(-0.5).flip(-2).cumsum(-2).flip(-2).add_(later)
            weight.mul_(grad_degrees)
            later = grad_degrees[:, :1]
        # through the messages and q·v
        grads.value[:, columns].baddbmm_(power.mul_(rsqrt_e).transpose(-1, -2), up)
        through.query_g[:, rows].baddbmm_(near, value)
        grads.value[:, columns].baddbmm_(near.transpose(-1, -2), self.query_g[:, rows], alpha=2 - self.step.p)
        # through log M
        grad_log_weight.mul_(0.5 * self.step.p)
        score = grad_log_weight if weight is None else grad_log_weight.add_(weight)
        through.mean[:, rows] += score.sum(-1, keepdim=True)
        self.to_scores(score, tile, grads)
        return grad_p, later

    def through_softmax(
        self,
        grad_context: Tensor | None,
        context: Tensor | None,
        through: _ThroughMessages,
        grads: _Gradients,
    ) -> None:
        """Back from M, as far as degrees and the attention output depend on it, to scores and values."""
        mean, degree = through.mean, through.degree
        if not self.step.causal:
            degree.div_(self.degrees.clamp(min=smallest_weight(mean.dtype))).mul_(-0.5)
            for tiles in self.columns():
                for tile in tiles:
                    weight = self.log_weight(tile).exp2_()
                    mean[:, tile.rows] += weight @ degree[:, :, tile.columns].transpose(-1, -2)
        if grad_context is not None and context is not None:
            mean += dot(grad_context, context)
        for tiles in self.columns():
            for tile in tiles:
                rows, columns = tile
                weight = self.log_weight(tile).exp2_()
                score = degree[:, :, columns] - mean[:, rows]
                if grad_context is not None:
                    grads.value[:, columns].baddbmm_(weight.transpose(-1, -2), grad_context[:, rows])
                    score.baddbmm_(grad_context[:, rows], self.value[:, columns].transpose(-1, -2))
                self.to_scores(score.mul_(weight), tile, grads)

    def carries(self, tiles: list[Tile]) -> list[Tensor] | list[None]:
        """The degrees with which each tile begins, in a causal graph; None in others."""
        if not self.step.causal:
            return [None] * len(tiles)
        carries = [self.first_carry(tiles[0])]
        for tile in tiles[:-1]:
            carries.append(self.log_weight(tile).exp2_().sum(-2, keepdim=True) + carries[-1])
        return carries

    def powers(self, sums: Tensor, logs: Tensor) -> Tensor:
        """w from log2 M and log R², which become log2 M + log2 R² and w."""
        sums.add_(logs, alpha=LOG2_E)
        return logs.mul_(-LOG2_E).add_(sums, alpha=0.5 * self.step.p).exp2_()

    def to_scores(self, grad: Tensor, tile: Tile, grads: _Gradients) -> None:
        """From a tile's scores on to queries and keys."""
        scale = self.step.scale
        grads.query[:, tile.rows].baddbmm_(grad, self.key[:, tile.columns], alpha=scale)
        grads.key[:, tile.columns].baddbmm_(grad.transpose(-1, -2), self.query[:, tile.rows], alpha=scale)


class _ThroughMessages:
    """Gradients that the way back through the messages collects.

    Attributes:
        message: of the messages' sums, ``(g, n, d)``.
        query_g: through q·v, over -2 (p/2 - 1), ``(g, n, d)``.
        norm_q, norm_v: of the squared lengths, over p/2 - 1: ``(g, n, 1)`` and ``(g, 1, m)``.
        degree: of log 1/√e, ``(g, 1, m)``; not used in a causal graph.
        mean: sums over the values of the gradients of log M, ``(g, n, 1)``.
    """

    def __init__(self, message: Tensor, zeros: Tensor, norm_v: Tensor):
        self.message, self.query_g = message, zeros
        self.norm_q, self.mean = (zeros.new_zeros(*zeros.shape[:2], 1) for _ in range(2))
        self.norm_v, self.degree = torch.zeros_like(norm_v), torch.zeros_like(norm_v)
