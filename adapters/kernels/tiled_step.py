r"""Attention and one p-Laplacian step without an array of all edges: :mod:`adapters.kernels.fused` for long sequences.

Everything per edge is computed again, tile by tile, whenever it is needed; memory grows linearly with the number of nodes.
With :math:`w = M^{p/2} R^{p-2}` and :math:`r = 2\mu/p`,

.. math:: \bar U_i = \alpha_i \Big( \sum_j w_{ij} \frac{\hat V_j}{\sqrt{e_{ij}}} + r \hat V_i \Big), \qquad
          \alpha_i = \Big( \sum_j w_{ij} + r \Big)^{-1} .

Forward, over the tiles: the row normalisers; the value degrees (in a causal graph they are carried from one tile of queries
to the next instead); the messages. Backward: through the messages, which leaves :math:`\partial/\partial \log M = \frac p2 D +
M \circ G`, where G (through the degrees) is known per value only after all queries, or in a causal graph per edge, going
backwards through the queries; then through the softmax.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from adapters.kernels.fused import _clamp, _dot, _Shared, _through_distances, apply_step
from attngraph.backends.tiles import RowSums, Tile, columns_of_tiles
from attngraph.edges import floor
from attngraph.graph import _wide
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
    """What :func:`adapters.kernels.fused.p_laplacian_step` returns, in memory that is linear in the number of nodes.

    Raises:
        ValueError: the metric requires gradients.
    """
    return apply_step(_TiledStep, scores, p, residual, degree, context)


class _TiledStep(torch.autograd.Function):
    """Forward and backward, a few heads at a time."""

    @staticmethod
    def forward(ctx, query, key, value, feature, p, residual, scores, degree, context):
        b, h, n, m, d = scores.shape
        shared = _Shared(scores, degree, float(p), float(residual))
        query, key, value = (x.reshape(b * h, -1, d) for x in (query, key, value))
        feature = None if feature is None else feature.reshape(b * h, n, d)
        wide = _wide(query[:0])
        out, plain = wide.new_empty(b * h, n, d), wide.new_zeros(b * h, n, d) if context else None
        log_sum, alpha = wide.new_empty(b * h, n, 1), wide.new_empty(b * h, n, 1)
        degrees = wide.new_empty(b * h, 0 if shared.causal else 1, m)
        for part in _Heads.all(shared, query, key, value, log_sum, degrees, feature):
            heads = part.heads
            part.normalise()
            part.send(out[heads], alpha[heads], None if plain is None else plain[heads])
        ctx.save_for_backward(query, key, value, feature, out, plain, log_sum, alpha, degrees)
        ctx.shared, ctx.shape = shared, scores.shape
        out = out.to(query.dtype).view(b, h, n, d)
        return (out, plain.to(query.dtype).view(b, h, n, d)) if context else out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out, grad_plain=None):
        query, key, value, feature, out, plain, log_sum, alpha, degrees = ctx.saved_tensors
        b, h, n, _, d = ctx.shape
        grads = [
            None if x is None else torch.zeros_like(x, dtype=log_sum.dtype)
            for x in (query, key, value, feature)
        ]
        grad_out = grad_out.reshape(b * h, n, d)
        grad_plain = None if grad_plain is None else grad_plain.reshape(b * h, n, d)
        grad_p = grad_residual = 0.0
        for part in _Heads.all(ctx.shared, query, key, value, log_sum, degrees, feature):
            heads = part.heads
            above = None if grad_plain is None else _wide(grad_plain[heads])
            more = part.backward(
                _wide(grad_out[heads]),
                out[heads],
                alpha[heads],
                above,
                None if plain is None else plain[heads],
                *(None if x is None else x[heads] for x in grads),
            )
            grad_p, grad_residual = grad_p + more[0], grad_residual + more[1]
        grads = [None if x is None else x.to(query.dtype).view(b, h, -1, d) for x in grads]
        return *grads, grad_p, grad_residual, None, None, None


class _Heads:
    """A few heads, whose edges are visited tile by tile."""

    def __init__(self, shared: _Shared, heads: slice, query, key, value, log_sum, degrees, feature):
        self.shared, self.heads, self.log_sum, self.degrees = shared, heads, log_sum, degrees
        self.query, self.key, self.value = _wide(query), _wide(key), _wide(value)
        self.node = self.query if feature is None else _wide(feature)
        self.scaled = self.query * (shared.scale * LOG2_E)
        self.query_g = shared.with_metric(self.node, heads)
        self.norm_q = _dot(self.query_g, self.node)
        self.norm_v = _dot(shared.with_metric(self.value, heads), self.value).transpose(-1, -2)

    @staticmethod
    def all(shared: _Shared, *tensors: Tensor | None) -> Iterator[_Heads]:
        n, m = tensors[0].shape[1], tensors[1].shape[1]
        size = max(1, TILE // (n * m))
        for start in range(0, shared.count, size):
            heads = slice(start, min(start + size, shared.count))
            yield _Heads(shared, heads, *(None if x is None else x[heads] for x in tensors))

    def columns(self) -> Iterator[list[Tile]]:
        """See :func:`attngraph.backends.tiles.columns_of_tiles`. Degrees per edge take room in the cache."""
        size = TILE * 5 // 8 if self.shared.causal else TILE
        return columns_of_tiles(
            self.query.shape[1], self.key.shape[1], ROWS, size, self.shared.scores.triangular
        )

    def logits(self, tile: Tile) -> Tensor:
        out = torch.bmm(self.scaled[:, tile.rows], self.key[:, tile.columns].transpose(-1, -2))
        return self.shared.mask_(out, self.heads, tile)

    def log_weight(self, tile: Tile) -> Tensor:
        """log2 M."""
        return self.logits(tile).sub_(self.log_sum[:, tile.rows])

    def normalise(self) -> None:
        """Row normalisers, and value degrees unless they depend on the query."""
        sums = RowSums(self.log_sum)
        for tiles in self.columns():
            for tile in tiles:
                sums.add(tile, self.logits(tile))
        self.log_sum.copy_(sums.log2())
        if not self.shared.causal:
            self.degrees.zero_()
            for tiles in self.columns():
                for tile in tiles:
                    self.degrees[:, :, tile.columns] += self.log_weight(tile).exp2_().sum(-2, keepdim=True)

    def first_carry(self, tile: Tile) -> Tensor:
        past = self.shared.past
        return self.norm_v.new_zeros(()) if past is None else past[self.heads, :, tile.columns]

    def root_degree(self, weight: Tensor | None, tile: Tile, carry: Tensor | None) -> tuple[Tensor, Tensor]:
        r"""Sums of weights and :math:`1/\sqrt e`."""
        total = self.degrees[:, :, tile.columns] if carry is None else weight.cumsum(-2).add_(carry)
        total = total.clamp(min=floor(total.dtype)) if carry is None else total.clamp_(min=floor(total.dtype))
        return total, self.shared.root(total, self.heads, tile.rows)

    def distances(self, tile: Tile, root: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """R², the values' squared lengths over e, and which distances were clamped, if any."""
        lengths = self.norm_v[:, :, tile.columns] * root
        square = torch.baddbmm(
            lengths, self.query_g[:, tile.rows], self.value[:, tile.columns].transpose(-1, -2), alpha=-2
        )
        square.mul_(root).add_(self.norm_q[:, tile.rows])
        lengths.mul_(root)
        return square, lengths, _clamp(square, self.norm_q[:, tile.rows], lengths)

    def send(self, out: Tensor, alpha: Tensor, plain: Tensor | None) -> None:
        """Messages to the queries."""
        residual = self.shared.residual
        out.zero_()
        alpha.fill_(residual)
        for tiles in self.columns():
            carry = self.first_carry(tiles[0]) if self.shared.causal else None
            for tile in tiles:
                value = self.value[:, tile.columns]
                sums = self.log_weight(tile)
                weight = sums.exp2() if carry is not None or plain is not None else None
                if plain is not None:
                    plain[:, tile.rows].baddbmm_(weight, value)
                total, root = self.root_degree(weight, tile, carry)
                carry = None if carry is None else total[:, -1:]
                power = self.powers(sums, self.distances(tile, root)[0].log_())
                alpha[:, tile.rows] += power.sum(-1, keepdim=True)
                out[:, tile.rows].baddbmm_(power.mul_(root), value)
        out.add_(self.node, alpha=residual)
        alpha.copy_(torch.where(alpha > 0, 1 / alpha, 0))
        out.mul_(alpha)

    def backward(
        self, grad_out, out, alpha, grad_plain, plain, grad_query, grad_key, grad_value, grad_node
    ) -> tuple[Tensor, Tensor]:
        """Adds to the gradients of query, key, value and feature (None: the query is it); returns those of p and the
        residual."""
        grad_node = grad_query if grad_node is None else grad_node
        shared, two_half = self.shared, self.shared.p - 2
        grad_message = alpha * grad_out
        grad_sum = -_dot(grad_message, out)  # of Σ_j w_ij
        grad_residual = grad_sum.sum() + (grad_message * self.node).sum()
        grad_node.add_(grad_message, alpha=shared.residual)
        grad_query_g, along, mean = torch.zeros_like(out), torch.zeros_like(alpha), torch.zeros_like(alpha)
        grad_norm, grad_degree = torch.zeros_like(self.norm_v), torch.zeros_like(self.norm_v)
        grad_p = 0.0
        for tiles in self.columns():
            carries = self.carries(tiles)
            later = 0.0  # gradient of the degrees with which the next tile began
            for tile, carry in zip(reversed(tiles), reversed(carries)):
                rows, columns = tile
                value, up = self.value[:, columns], grad_message[:, rows]
                sums = self.log_weight(tile)
                weight = None if carry is None else sums.exp2()
                total, root = self.root_degree(weight, tile, carry)
                square, lengths, clamped = self.distances(tile, root)
                power = self.powers(sums, square.log())
                logit = (
                    torch.bmm(up, value.transpose(-1, -2)).mul_(root).add_(grad_sum[:, rows]).mul_(power)
                )  # of log w
                grad_p = grad_p + torch.dot(logit.view(-1), sums.view(-1))
                near, norm_q, norm_v, degree = _through_distances(
                    shared,
                    logit,
                    power,
                    -grad_sum[:, rows],
                    square,
                    clamped,
                    root,
                    lengths,
                    self.norm_q[:, rows],
                )
                along[:, rows] += norm_q
                grad_norm[:, :, columns] += norm_v
                if carry is None:
                    grad_degree[:, :, columns] += degree
                else:
                    later = degree.div_(total).mul_(-0.5).flip(-2).cumsum(-2).flip(-2).add_(later)
                    weight.mul_(later)
                    later = later[:, :1]
                # through the messages and q·v
                grad_value[:, columns].baddbmm_(power.mul_(root).transpose(-1, -2), up)
                grad_query_g[:, rows].baddbmm_(near, value)
                grad_value[:, columns].baddbmm_(
                    near.transpose(-1, -2), self.query_g[:, rows], alpha=-two_half
                )
                # through log M
                logit.mul_(0.5 * shared.p)
                score = logit if weight is None else logit.add_(weight)
                mean[:, rows] += score.sum(-1, keepdim=True)
                self.to_scores(score, tile, grad_query, grad_key)
        grad_node.add_(shared.with_metric(grad_query_g, self.heads), alpha=-two_half)
        grad_node.addcmul_(self.query_g, along, value=two_half)
        grad_value.addcmul_(
            shared.with_metric(self.value, self.heads), grad_norm.transpose(-1, -2), value=two_half
        )
        if not shared.causal:
            grad_degree.div_(self.degrees.clamp(min=floor(mean.dtype))).mul_(-0.5)
            for tiles in self.columns():
                for tile in tiles:
                    mean[:, tile.rows] += self.log_weight(tile).exp2_() @ grad_degree[
                        :, :, tile.columns
                    ].transpose(-1, -2)
        if grad_plain is not None:
            mean += _dot(grad_plain, plain)
        for tiles in self.columns():
            for tile in tiles:
                rows, columns = tile
                weight = self.log_weight(tile).exp2_()
                score = grad_degree[:, :, columns] - mean[:, rows]
                if grad_plain is not None:
                    grad_value[:, columns].baddbmm_(weight.transpose(-1, -2), grad_plain[:, rows])
                    score.baddbmm_(grad_plain[:, rows], self.value[:, columns].transpose(-1, -2))
                self.to_scores(score.mul_(weight), tile, grad_query, grad_key)
        return 0.5 * math.log(2) * grad_p, grad_residual

    def carries(self, tiles: list[Tile]) -> list[Tensor | None]:
        """The degrees with which each tile begins."""
        if not self.shared.causal:
            return [None] * len(tiles)
        carries = [self.first_carry(tiles[0])]
        for tile in tiles[:-1]:
            carries.append(self.log_weight(tile).exp2_().sum(-2, keepdim=True) + carries[-1])
        return carries

    def powers(self, sums: Tensor, logs: Tensor) -> Tensor:
        """w from log2 M and log R², which become log2 M + log2 R² and w."""
        sums.add_(logs, alpha=LOG2_E)
        return logs.mul_(-LOG2_E).add_(sums, alpha=0.5 * self.shared.p).exp2_()

    def to_scores(self, grad: Tensor, tile: Tile, grad_query: Tensor, grad_key: Tensor) -> None:
        """From scores on to queries and keys."""
        scale = self.shared.scale
        grad_query[:, tile.rows].baddbmm_(grad, self.key[:, tile.columns], alpha=scale)
        grad_key[:, tile.columns].baddbmm_(grad.transpose(-1, -2), self.query[:, tile.rows], alpha=scale)
