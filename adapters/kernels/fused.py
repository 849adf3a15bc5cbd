r"""Attention and one p-Laplacian step in one function with a hand-written backward pass.

With :math:`M = \mathrm{softmax}(s)` the weights of the step are

.. math:: M_{ij}^{p/2} R_{ij}^{p-2} = e^{z_{ij}}, \qquad z_{ij} = \tfrac p2 (\log M_{ij} + \log R_{ij}^2) - \log R_{ij}^2,

so the step is a second softmax :math:`\sigma` over the same edges whose row sum :math:`S_i = \sum_j e^{z_{ij}}` competes
with the residual :math:`r = 2\mu/p`:

.. math:: \bar U_i = \kappa_i \sum_j \sigma_{ij} \frac{\hat V_j}{\sqrt{e_{ij}}} + (1 - \kappa_i) \hat V_i, \qquad
          \kappa_i = \frac{S_i}{S_i + r} .

Kept for the backward pass are two numbers per edge, :math:`A = \log M + \log R^2` (up to a constant per row) and
:math:`R^2`; :math:`\sigma`, :math:`M` and all gradients follow from them with two powers. Heads are worked on a few at a time,
so that their edges stay in the processor's cache. Logarithms are to base 2: ``exp2`` is three times as fast as ``exp``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from attngraph.backends.tiles import Tile
from attngraph.edges import floor
from attngraph.graph import _wide
from attngraph.scores import HIDDEN, LOG2_E, AttentionScores

BLOCK = 2**17  # edges that are worked on at a time: 0.5 MB per array in float32


def p_laplacian_step(
    scores: AttentionScores,
    p: Tensor | float,
    residual: Tensor | float,
    degree: str = "sum",
    context: bool = False,
) -> tuple[Tensor, Tensor | None]:
    r"""One step of :class:`adapters.pgnn.PGNN` from queries, keys and values, and the attention output if asked for.

    Args:
        scores: the attention; its metric must not require gradients.
        p: exponent.
        residual: :math:`2\mu/p`.
        degree: value degree, ``"sum"`` or ``"mean"``.
        context: whether :math:`M V` is wanted too.

    Returns:
        :math:`\bar U` ``(b, h, n, d)``, and :math:`M V` or None, in the dtype of ``scores.query``.

    Raises:
        ValueError: the metric requires gradients.
    """
    return apply_step(_Step, scores, p, residual, degree, context, torch.is_grad_enabled())


def apply_step(
    step: type[torch.autograd.Function],
    scores: AttentionScores,
    p: Tensor | float,
    residual: Tensor | float,
    degree: str,
    context: bool,
    *more,
) -> tuple[Tensor, Tensor | None]:
    """Call a step's function, whatever autocast says.

    Raises:
        ValueError: the metric requires gradients.
    """
    if scores.metric is not None and scores.metric.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "the p-Laplacian step in one function has no gradient for the metric: detach it, or use the scheme on "
            "scores.graph()"
        )
    wide = _wide(scores.query)
    p, residual = (torch.as_tensor(x, dtype=wide.dtype, device=wide.device) for x in (p, residual))
    with torch.autocast(scores.query.device.type, enabled=False):
        out = step.apply(
            scores.query,
            scores.key,
            scores.value,
            scores.feature,
            p,
            residual,
            scores,
            degree,
            context,
            *more,
        )
    return out if context else (out, None)


class _Step(torch.autograd.Function):
    """Forward and backward; ``g = b·h`` counts the heads of all examples. What is small (per node) is done for all heads at
    once, what is large (per edge) a block of heads at a time."""

    @staticmethod
    def forward(ctx, query, key, value, feature, p, residual, scores, degree, context, keep):
        b, h, n, m, d = scores.shape
        shared = _Shared(scores, degree, float(p), float(residual))
        query, key, value = (x.reshape(b * h, -1, d) for x in (query, key, value))
        feature = None if feature is None else feature.reshape(b * h, n, d)
        wide = _wide(query)
        node = wide if feature is None else _wide(feature)
        query_g = shared.with_metric(node)
        per_row = wide.new_empty(b * h, n, 1)
        edges = b * h if keep else shared.size  # without a backward pass all blocks use the same room
        kept = _Kept(
            wide.new_empty(edges, n, m),
            wide.new_empty(edges, n, m),
            torch.empty_like(per_row),
            torch.empty_like(per_row),
            wide.new_empty(b * h, 1, m),
            torch.empty_like(wide),
        )
        value_g = (
            wide.new_empty(value.shape)
            if keep and ctx.needs_input_grad[2] and shared.metric is not None
            else None
        )
        plain = torch.empty_like(wide) if context else None
        clamped = shared.over_blocks(
            _forward_block,
            wide * (shared.scale * LOG2_E),
            query_g,
            _dot(query_g, node),
            key,
            value,
            *kept,
            value_g,
            plain,
        )
        kappa = shared.kappa(kept)
        out = torch.addcmul(kappa * kept.message, shared.beta(kappa), node).to(query.dtype).view(b, h, n, d)
        ctx.save_for_backward(query, key, value, feature, *kept)
        ctx.shared, ctx.clamped, ctx.value_g, ctx.shape = shared, clamped, value_g, (b, h, n, m, d)
        return (out, plain.to(query.dtype).view(b, h, n, d)) if context else out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out, grad_plain=None):
        query, key, value, feature, *kept = ctx.saved_tensors
        shared, kept, (b, h, n, m, d) = ctx.shared, _Kept(*kept), ctx.shape
        p, half = shared.p, 0.5 * shared.p - 1
        wide, grad_out = _wide(query), _wide(grad_out.reshape(b * h, n, d))
        node = wide if feature is None else _wide(feature)
        # out = κ message + β node
        kappa = shared.kappa(kept)
        apart = _dot(grad_out, kept.message - node)
        grad_message = kappa * grad_out
        grad_sum = kappa * (1 - kappa) * apart  # of log S
        grad_node = shared.beta(kappa) * grad_out
        grad_residual = -(kappa * kappa * torch.exp2(0.5 * p * kept.log_total - kept.row) * apart).sum()
        # everything per edge
        query_g = shared.with_metric(node)
        grad_plain = None if grad_plain is None else _wide(grad_plain.reshape(b * h, n, d))
        grad_query_g, along, from_scores = (
            torch.empty_like(wide),
            torch.empty_like(kappa),
            torch.empty_like(wide),
        )
        grad_key = torch.empty_like(key) if ctx.needs_input_grad[1] else None
        grad_value = None
        if ctx.needs_input_grad[2]:  # it takes the place of V G, unless a second backward pass comes
            grad_value, ctx.value_g = ctx.value_g, None
            if grad_value is None:
                grad_value = shared.with_metric(_wide(value)).clone()
        grad_p = shared.over_blocks(
            _backward_block,
            wide * shared.scale,
            query_g * (-2 * half),
            _dot(query_g, node),
            key,
            value,
            *kept,
            -kept.row,
            grad_message,
            _dot(grad_message, kept.message) - grad_sum,
            grad_sum,
            grad_plain,
            ctx.clamped,
            grad_query_g,
            along,
            from_scores,
            grad_key,
            grad_value,
        )
        grad_value = None if grad_value is None else grad_value.to(value.dtype)
        grad_p = 0.5 * math.log(2) * (sum(grad_p) - (kept.log_total * grad_sum).sum())
        grad_node.addcmul_(query_g, along, value=2 * half).add_(
            shared.with_metric(grad_query_g), alpha=-2 * half
        )
        if feature is None:
            grad_query, grad_feature = grad_node.add_(from_scores, alpha=shared.scale), None
        else:
            grad_query, grad_feature = from_scores.mul_(shared.scale), grad_node.to(feature.dtype)
        grads = grad_query.to(query.dtype), grad_key, grad_value, grad_feature
        grads = [None if x is None else x.view(b, h, -1, d) for x in grads]
        return *grads, grad_p, grad_residual, None, None, None, None


class _Kept(NamedTuple):
    """What the backward pass needs."""

    sums: Tensor  # g n m: log2 M + log2 R², without log_total
    square: Tensor  # g n m: R²
    log_total: Tensor  # g n 1: M = exp2(sums - log_total) / square
    row: Tensor  # g n 1: σ = exp2(p/2 · sums - row) / square; infinite for a query that sees nothing
    norm_v: Tensor  # g 1 m: |v|²
    message: Tensor  # g n d: Σ σ V/√e


class _Shared:
    """What all blocks share: numbers, and tensors per example or per head of which each block takes its heads'."""

    def __init__(self, scores: AttentionScores, degree: str, p: float, residual: float):
        b, self.heads, n, m, _ = scores.shape
        self.causal, self.scale, self.p, self.residual = scores.causal, scores.scale, p, residual
        self.scores = scores
        self.degree_scale = scores.degree_scale(degree)
        self.metric = None if scores.metric is None else _wide(scores.metric).repeat(b, 1, 1)
        self.past = None if scores.past_degree is None else scores.past_degree.total.flatten(0, 1)[:, None]
        self.count = b * self.heads
        self.size = min(self.count, max(1, BLOCK * torch.get_num_threads() // max(1, n * m)))

    def over_blocks(self, function, *tensors: Tensor | list | None) -> list:
        """``function(self, heads, *tensors)`` for every block of heads, with its heads' part of the tensors."""
        blocks = [
            slice(start, min(start + self.size, self.count)) for start in range(0, self.count, self.size)
        ]

        def split(x):
            if x is None or isinstance(x, list):
                return x or [None] * len(blocks)
            if len(x) < self.count:  # room that is used again
                return [x[: block.stop - block.start] for block in blocks]
            return x.split(self.size)

        return [function(self, *part) for part in zip(blocks, *map(split, tensors))]

    def example(self, x: Tensor, heads: slice) -> Tensor:
        """``(b, 1, ...)`` or ``(1, 1, ...)`` as ``(g, ...)``."""
        if x.shape[0] == 1:
            return x[0]
        return x[torch.arange(self.count, device=x.device)[heads] // self.heads, 0]

    def mask_(self, logits: Tensor, heads: slice, tile: Tile = Tile(slice(None), slice(None))) -> Tensor:
        """Scores to base 2 with the mask, in place."""
        return self.scores.mask_(logits, *tile, unit=LOG2_E, of=lambda x: self.example(x, heads))

    def with_metric(self, x: Tensor, heads: slice = slice(None)) -> Tensor:
        return x if self.metric is None else torch.bmm(x, self.metric[heads])

    def root_degree(self, weight: Tensor, heads: slice) -> tuple[Tensor, Tensor]:
        r"""Sums of weights at the values and :math:`1/\sqrt e`, ``(g, 1, m)``, or ``(g, n, m)`` in a causal graph."""
        total = weight.cumsum(-2) if self.causal else weight.sum(-2, keepdim=True)
        if self.past is not None:
            total += self.past[heads]
        total.clamp_(min=floor(weight.dtype))  # a value without edges: its messages have weight 0
        return total, self.root(total, heads)

    def root(self, total: Tensor, heads: slice, rows: slice = slice(None)) -> Tensor:
        r""":math:`1/\sqrt e` from sums of weights."""
        if self.degree_scale is None:
            return total.rsqrt()
        scale = self.example(self.degree_scale, heads)
        return (total * (scale[:, rows] if self.causal else scale)).clamp_(min=floor(total.dtype)).rsqrt_()

    def kappa(self, kept: _Kept) -> Tensor:
        r""":math:`\kappa = S/(S + r)`, 0 for a query that sees nothing."""
        kappa = 1 / (1 + self.residual * torch.exp2(0.5 * self.p * kept.log_total - kept.row))
        return torch.where(kept.row == torch.inf, 0, kappa) if self.scores.masked else kappa

    def beta(self, kappa: Tensor) -> Tensor:
        return 1 - kappa if self.residual > 0 else torch.zeros_like(kappa)


def _forward_block(
    shared: _Shared,
    heads: slice,
    query,
    query_g,
    norm_q,
    key,
    value,
    sums,
    square,
    log_total,
    row,
    norm_v,
    message,
    value_g,
    plain,
) -> Tensor | None:
    """Fills the block's part of what is kept and of the context; returns which distances were clamped, if any."""
    key, value = _wide(key), _wide(value)
    # M = softmax(scores)
    torch.bmm(query, key.transpose(-1, -2), out=sums)
    shared.mask_(sums, heads)
    sums -= sums.amax(-1, keepdim=True).clamp_(min=HIDDEN / 4)
    weight = sums.exp2()
    total = weight.sum(-1, keepdim=True)
    if shared.scores.masked:
        total.masked_fill_(total == 0, 1)
    weight /= total
    torch.log2(total, out=log_total)
    if plain is not None:
        torch.bmm(weight, value, out=plain)
    _, root = shared.root_degree(weight, heads)
    # R² = |q|² + |v|²/e - 2 q·v/√e
    value_g = value if shared.metric is None else torch.bmm(value, shared.metric[heads], out=value_g)
    torch.sum(value_g * value, -1, out=norm_v[:, 0])
    scaled = norm_v * root
    torch.baddbmm(scaled, query_g, value.transpose(-1, -2), alpha=-2, out=square)
    square.mul_(root).add_(norm_q)
    clamped = _clamp(square, norm_q, scaled.mul_(root))
    # σ = softmax(p/2 · sums - log R²)
    logits = torch.log(square, out=weight)
    sums.add_(logits, alpha=LOG2_E)
    logits.mul_(-LOG2_E).add_(sums, alpha=0.5 * shared.p)
    torch.amax(logits, -1, keepdim=True, out=row).clamp_(min=HIDDEN / 4)
    powers = logits.sub_(row).exp2_()
    total = powers.sum(-1, keepdim=True)
    torch.bmm(powers.mul_(root), value, out=message)
    row += total.log2()
    if shared.scores.masked:
        nothing = total == 0
        row.masked_fill_(nothing, torch.inf)
        total.masked_fill_(nothing, 1)
    message /= total
    return clamped


def _clamp(square: Tensor, norm_q: Tensor, norm_v: Tensor) -> Tensor | None:
    """Lift squared distances to a small share of the squared lengths, and tell which were, if any."""
    tiny, least = _tiny(square), floor(square.dtype)
    if (square.amin(-2) > tiny * (norm_v.amax(-2) + norm_q.amax(-2)) + least).all():
        return None  # the usual case, seen without another array of all edges
    low = (norm_v + norm_q).mul_(tiny).add_(least)
    clamped = square < low
    if not clamped.any():
        return None
    torch.maximum(square, low, out=square)
    return clamped


class _Through(NamedTuple):
    """Gradients through log R², all but ``degree`` over p/2 - 1."""

    near: Tensor  # g n m: of R² times 1/√e, where the distance counted
    norm_q: Tensor  # g n 1
    norm_v: Tensor  # g 1 m
    degree: Tensor  # g n m, or g 1 m if the degrees are the same for all queries: of log 1/√e, also through the messages


def _through_distances(
    shared: _Shared,
    logit: Tensor,
    power: Tensor,
    pulled: Tensor,
    square: Tensor,
    clamped: Tensor | None,
    root: Tensor,
    lengths: Tensor,
    norm_q: Tensor,
) -> _Through:
    """Back from the gradient ``logit`` of the edges' log weight. ``logit + power · pulled`` is that of the log message."""
    half, free, lifted = 0.5 * shared.p - 1, logit, None
    near = torch.div(logit, square)
    if clamped is not None:  # there R² is a share of the lengths
        lifted = near.masked_fill(~clamped, 0).mul_(_tiny(square))
        free, near = logit.masked_fill(clamped, 0), near.masked_fill_(clamped, 0)
    grad_norm_q = near.sum(-1, keepdim=True)
    if shared.causal:
        degree = (
            torch.addcmul(logit, power, pulled)
            .add_(free, alpha=half)
            .addcmul_(near, lengths - norm_q, value=half)
        )
        near.mul_(root)
        grad_norm_v = (near * root).sum(-2, keepdim=True)
    else:
        total = near.sum(-2, keepdim=True)
        degree = (
            free.sum(-2, keepdim=True)
            .addcmul_(total, lengths)
            .sub_(norm_q.transpose(-1, -2) @ near)
            .mul_(half)
        )
        degree.add_(logit.sum(-2, keepdim=True)).add_(pulled.transpose(-1, -2) @ power)
        near.mul_(root)
        grad_norm_v = total * root.square()
    if lifted is not None:
        grad_norm_q += lifted.sum(-1, keepdim=True)
        grad_norm_v += (lifted * root.square()).sum(-2, keepdim=True)
        lifted *= 2 * half * lengths
        degree += lifted if shared.causal else lifted.sum(-2, keepdim=True)
    return _Through(near, grad_norm_q, grad_norm_v, degree)


def _backward_block(
    shared: _Shared,
    heads: slice,
    query,
    query_g,
    norm_q,
    key,
    value,
    sums,
    square,
    log_total,
    row,
    norm_v,
    message,
    minus_row,
    grad_message,
    offset,
    grad_sum,
    grad_plain,
    clamped,
    grad_query_g,
    along,
    from_scores,
    grad_key,
    grad_value,
) -> Tensor:
    """Fills the block's part of the gradients; returns its part of p's."""
    key, value = _wide(key), _wide(value)
    p, half, value_t = shared.p, 0.5 * shared.p - 1, value.transpose(-1, -2)
    weight = torch.sub(sums, log_total).exp2_().div_(square)
    sigma = torch.add(minus_row, sums, alpha=0.5 * p).exp2_().div_(square)
    total, root = shared.root_degree(weight, heads)
    logit = (
        torch.bmm(grad_message, value_t).mul_(root).sub_(offset).mul_(sigma)
    )  # gradient of p/2 · sums - log R²
    grad_p = torch.dot(logit.view(-1), sums.view(-1))
    lengths = norm_v * root.square()  # |v|²/e
    near, grad_norm_q, grad_norm_v, degree = _through_distances(
        shared, logit, sigma, offset, square, clamped, root, lengths, norm_q
    )
    along.copy_(grad_norm_q)
    grad_weight = degree.div_(total).mul_(-0.5)
    if shared.causal:
        grad_weight = grad_weight.flip(-2).cumsum(-2).flip(-2)
    # through q·v, over -2 (p/2 - 1)
    torch.bmm(near, value, out=grad_query_g)
    if grad_value is not None:
        grad_value.mul_(grad_norm_v.transpose(-1, -2).mul_(2 * half))
        grad_value.baddbmm_(sigma.mul_(root).transpose(-1, -2), grad_message)
        grad_value.baddbmm_(near.transpose(-1, -2), query_g)
        if grad_plain is not None:
            grad_value.baddbmm_(weight.transpose(-1, -2), grad_plain)
    # through M
    if grad_plain is not None:
        grad_weight = torch.baddbmm(grad_weight, grad_plain, value_t, out=sigma)
    if grad_weight.shape[-2] == 1:
        mean = torch.bmm(weight, grad_weight.transpose(-1, -2))
    else:
        mean = torch.mul(weight, grad_weight, out=near).sum(-1, keepdim=True)
    score = (
        torch.sub(grad_weight, mean.add_(grad_sum, alpha=0.5 * p), out=near)
        .mul_(weight)
        .add_(logit, alpha=0.5 * p)
    )
    torch.bmm(score, key, out=from_scores)
    if grad_key is not None:
        if grad_key.dtype == key.dtype:
            torch.bmm(score.transpose(-1, -2), query, out=grad_key)
        else:
            grad_key.copy_(score.transpose(-1, -2) @ query)
    return grad_p


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)


def _tiny(x: Tensor) -> float:
    """Squared distances are at least this times the squared lengths."""
    return 8 * torch.finfo(x.dtype).eps
