r"""Attention and one p-Laplacian step, all edges of a few heads at a time.

With :math:`M = \mathrm{softmax}(s)` the weights of the step are

.. math::
    M_{ij}^{p/2} R_{ij}^{p-2} = e^{z_{ij}}, \qquad
    z_{ij} = \tfrac p2 (\log M_{ij} + \log R_{ij}^2) - \log R_{ij}^2,

so the step is a second softmax :math:`\sigma` over the same edges, whose row sum :math:`S_i = \sum_j
e^{z_{ij}}` competes with the residual :math:`r = 2\mu/p`:

.. math::
    \bar U_i = \kappa_i \sum_j \sigma_{ij} \frac{\hat V_j}{\sqrt{e_{ij}}} + (1 - \kappa_i) \hat V_i, \qquad
    \kappa_i = \frac{S_i}{S_i + r} .

Under dropout the graph has the weights :math:`W = D \circ M` that dropout leaves, whose rows no longer sum to
1 but to :math:`d_i`: the same formulas with :math:`W`, with :math:`\hat V_i/\sqrt{d_i}` in :math:`R`, with
:math:`S_i/d_i`, and with messages times :math:`\sqrt{d_i}`.

Two numbers per edge are kept for the backward pass: :math:`\log M + \log R^2` (up to a constant per row) and
:math:`R^2`; under dropout also its mask, a byte. :math:`\sigma`, :math:`M` and all gradients follow from them
with two powers. Queries, keys and values are kept with their strides, so that no copy of them
outlives the forward pass (only :math:`V G` does, where values need gradients: computing it again would take a
fifth of the step's time). Small arrays (per node) are computed for all heads at once, large ones (per edge)
for a block of heads at a time, so that a block's edges stay in the processor's cache. Logarithms are to base
2, since ``exp2`` is three times as fast as ``exp``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from attngraph.adapters.kernels.blocks import Extra, Gradients, Kept, Nodes, Upstream
from attngraph.adapters.kernels.distances import Distances, clamp_, distance_gradients
from attngraph.adapters.kernels.step import PLaplacianStep, StepCall, apply_step, dot
from attngraph.edges import smallest_weight
from attngraph.precision import widen
from attngraph.scores import HIDDEN, LOG2_E, AttentionScores

BLOCK = 2**17  # edges of a block and thread: 0.5 MB per array in float32


def fused_step(
    scores: AttentionScores,
    p: Tensor | float,
    residual: Tensor | float,
    degree: str = "sum",
    context: bool = False,
) -> tuple[Tensor, Tensor | None]:
    r"""One step of :class:`attngraph.adapters.pgnn.PGNN` from queries, keys and values, and the attention
    output if asked for.

    Args:
        scores: the attention; its metric must not require gradients.
        p: exponent.
        residual: :math:`2\mu/p`.
        degree: value degree, ``"sum"`` or ``"mean"``.
        context: whether :math:`M V` (under dropout :math:`W V`) of all queries, padded ones too, is wanted.

    Returns:
        :math:`\bar U` ``(b, h, n, d)``, and the context or None, in the dtype of ``scores.query``.

    Raises:
        ValueError: the metric requires gradients.
    """
    return apply_step(_FusedStep, scores, p, residual, degree, context)


class _FusedStep(torch.autograd.Function):
    """The step and its backward pass."""

    @staticmethod
    def forward(ctx, query, key, value, feature, p, residual, call: StepCall):
        step = PLaplacianStep(call, float(p), float(residual))
        wide, keys, values, node = _flat(query, key, value, feature)
        query_g = step.with_metric(node)
        needs_value_g = call.keep and ctx.needs_input_grad[2] and step.metric is not None
        norm_v = None if needs_value_g else step.square_norms(values)
        nodes = Nodes(wide * (step.scale * LOG2_E), query_g, dot(query_g, node), keys, values, norm_v)
        # without a backward pass all blocks use the same room
        heads = step.count if call.keep else _block_size(step)
        value_g = wide.new_empty(values.shape) if needs_value_g else None
        kept = _room(wide, keys.shape[1], heads, call.scores.kept, value_g)
        extra = Extra(torch.empty_like(wide) if call.context else None)
        clamped = _over_blocks(_forward_block, step, nodes, kept, extra)
        kappa = _kappa(step, kept)
        out = torch.addcmul(kappa * kept.message, step.residual_share(kappa), node)
        ctx.save_for_backward(query, key, value, feature, p, residual, *kept, *clamped)
        ctx.step = step
        out = out.to(query.dtype).view(query.shape)
        return out if extra.context is None else (out, extra.context.to(query.dtype).view(query.shape))

    @staticmethod
    def backward(ctx, grad_out, grad_context=None):
        step, saved = ctx.step, ctx.saved_tensors
        kept, clamped = Kept._make(saved[6 : 6 + len(Kept._fields)]), list(saved[6 + len(Kept._fields) :])
        if torch.is_grad_enabled():  # to be differentiated again
            given = grad_out, grad_context
            return step.backward_again(saved[:6], ctx.needs_input_grad, given, dropout_mask=kept.dropout_mask)
        query, key, value, feature = saved[:4]
        wide, keys, values, node = _flat(query, key, value, feature)
        half = 0.5 * step.p - 1
        kappa = _kappa(step, kept)
        grad_out = widen(grad_out.reshape(node.shape))
        # out = κ message + β node
        apart = dot(grad_out, kept.message - node)
        grad_message, grad_log_sum = kappa * grad_out, kappa * (1 - kappa) * apart
        # ∂κ/∂r = -κ/(S + r), also where S is 0 and 1/S infinite
        total = 1 / _inverse_sum(step, kept) + step.residual
        grad_residual = -(kappa * apart / total.clamp_(min=torch.finfo(total.dtype).tiny)).sum()
        grad_node = step.residual_share(kappa) * grad_out
        # everything per edge
        query_g = step.with_metric(node)
        nodes = Nodes(wide * step.scale, query_g * (-2 * half), dot(query_g, node), keys, values)
        upstream = Upstream(
            grad_message,
            dot(grad_message, kept.message) - grad_log_sum,
            grad_log_sum,
            None if grad_context is None else widen(grad_context.reshape(node.shape)),
        )
        grads = Gradients(
            torch.empty_like(wide),
            torch.empty_like(kappa),
            torch.empty_like(wide),
            torch.empty_like(keys) if ctx.needs_input_grad[1] else None,
            wide.new_empty(values.shape) if ctx.needs_input_grad[2] else None,
        )
        grad_p = _over_blocks(_backward_block, step, nodes, kept, upstream, grads, clamped)
        grad_p = sum(grad_p) - (_log_total(step, kept) * grad_log_sum).sum()
        grad_p *= 0.5 * math.log(2)
        grad_node.addcmul_(query_g, grads.norm_q, value=2 * half)
        grad_node.add_(step.with_metric(grads.query_g), alpha=-2 * half)
        if feature is None:
            grad_query, grad_feature = grad_node.add_(grads.query, alpha=step.scale), None
        else:
            grad_query, grad_feature = grads.query.mul_(step.scale), grad_node
        outputs = (
            None if grad is None else grad.to(x.dtype).view(x.shape)
            for x, grad in zip(
                (query, key, value, feature), (grad_query, grads.key, grads.value, grad_feature)
            )
        )
        return *outputs, grad_p, grad_residual, None


def _flat(
    query: Tensor, key: Tensor, value: Tensor, feature: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries and the features of their nodes in single precision or better, and keys and values: ``(g, .,
    d)``.

    Strided tensors are copied here, in both passes, so that no copy has to be kept.
    """
    wide, key, value = widen(query.flatten(0, 1)), key.flatten(0, 1), value.flatten(0, 1)
    return wide, key, value, wide if feature is None else widen(feature.flatten(0, 1))


def _room(like: Tensor, m: int, heads: int, dropout_mask: Tensor | None, value_g: Tensor | None) -> Kept:
    """Allocate the results of all heads of ``like``, ``(g, n, d)``; for edges, of ``heads`` heads. What
    dropout keeps is there already."""
    g, n, _ = like.shape
    sums, square = (like.new_empty(heads, n, m) for _ in range(2))
    log_total, logsumexp, degree = (like.new_empty(g, n, 1) for _ in range(3))
    norm_v, message = like.new_empty(g, 1, m), torch.empty_like(like)
    if dropout_mask is None:
        return Kept(sums, square, log_total, logsumexp, norm_v, message, None, None, value_g)
    return Kept(
        sums, square, log_total, logsumexp, norm_v, message, degree, dropout_mask.flatten(0, 1), value_g
    )


def _block_size(step: PLaplacianStep) -> int:
    """Heads per block."""
    _, _, n, m, _ = step.scores.shape
    return min(step.count, max(1, BLOCK * torch.get_num_threads() // max(1, n * m)))


def _over_blocks(function: Callable, step: PLaplacianStep, *groups) -> list:
    """``function(step, heads, *groups)`` for every block of heads, with its heads' part of each group.

    A group is a named tuple of tensors (or None), of which a tensor with fewer heads is room that all blocks
    use; or a list with one entry per block.
    """
    size = _block_size(step)
    blocks = [slice(start, min(start + size, step.count)) for start in range(0, step.count, size)]

    def part(x: Tensor | None, block: slice) -> Tensor | None:
        if x is None:
            return None
        return x[block] if len(x) == step.count else x[: block.stop - block.start]

    results = []
    for k, block in enumerate(blocks):
        parts = (x[k] if isinstance(x, list) else type(x)(*(part(y, block) for y in x)) for x in groups)
        results.append(function(step, block, *parts))
    return results


def _kappa(step: PLaplacianStep, kept: Kept) -> Tensor:
    r""":math:`\kappa = S/(S + r)`, ``(g, n, 1)``; 0 for a query without edges."""
    inverse = _inverse_sum(step, kept)
    if not torch.is_tensor(step.residual) and step.residual == 0:  # 1/S may be infinite
        kappa = torch.ones_like(inverse)
    else:
        kappa = 1 / (1 + step.residual * inverse)
    return torch.where(kept.logsumexp == torch.inf, 0, kappa) if _may_be_blind(step, kept) else kappa


def _inverse_sum(step: PLaplacianStep, kept: Kept) -> Tensor:
    r""":math:`1/S`, ``(g, n, 1)``; :math:`d/S` under dropout."""
    inverse = torch.exp2(0.5 * step.p * _log_total(step, kept) - kept.logsumexp)
    return inverse if kept.degree is None else inverse * kept.degree


def _log_total(step: PLaplacianStep, kept: Kept) -> Tensor:
    """``log_total`` of the weights that dropout leaves, where it leaves them."""
    return kept.log_total - math.log2(step.growth)


def _may_be_blind(step: PLaplacianStep, kept: Kept) -> bool:
    """Whether there may be queries without edges."""
    return step.scores.masked or kept.dropout_mask is not None


def _degrees(step: PLaplacianStep, weight: Tensor, heads: slice) -> tuple[Tensor, Tensor]:
    r"""Sums of weights at the values and :math:`1/\sqrt e`.

    ``(g, 1, m)``, or ``(g, n, m)`` in a causal graph.
    """
    total = weight.cumsum(-2) if step.causal else weight.sum(-2, keepdim=True)
    if step.past is not None:
        total += step.past[heads]
    total.clamp_(min=smallest_weight(weight.dtype))  # a value without edges: its messages have weight 0
    return total, step.rsqrt_degree(total, heads)


def _forward_block(
    step: PLaplacianStep, heads: slice, nodes: Nodes, kept: Kept, extra: Extra
) -> Tensor | None:
    """Fill a block's part of ``kept`` and ``extra``; returns which distances were clamped, if any."""
    key, value = widen(nodes.key), widen(nodes.value)
    sums, square = kept.sums, kept.square
    # M = softmax(scores)
    torch.bmm(nodes.query, key.transpose(-1, -2), out=sums)
    step.mask_(sums, heads)
    sums -= sums.amax(-1, keepdim=True).clamp_(min=HIDDEN / 4)
    weight = sums.exp2()
    total = weight.sum(-1, keepdim=True)
    if step.scores.masked:
        total.masked_fill_(total == 0, 1)
    weight /= total
    torch.log2(total, out=kept.log_total)
    query_g, norm_q, degree, absent = nodes.query_g, nodes.norm_q, kept.degree, None
    if kept.dropout_mask is not None:
        weight.mul_(kept.dropout_mask).mul_(step.growth)
        absent = weight <= smallest_weight(weight.dtype)
        degree = torch.sum(weight, -1, keepdim=True, out=degree)
        degree.masked_fill_(degree <= smallest_weight(weight.dtype), 1)
        query_g, norm_q = query_g * degree.rsqrt(), norm_q / degree
    if extra.context is not None:
        torch.bmm(weight, value, out=extra.context)
    padded = step.padded(heads)
    if padded is not None:
        weight.masked_fill_(padded, 0)
    _, rsqrt_e = _degrees(step, weight, heads)
    # R² = |q|² + |v|²/e - 2 q·v/√e
    if nodes.norm_v is None:
        value_g = step.with_metric(value, heads, out=kept.value_g)
        torch.sum(value_g * value, -1, out=kept.norm_v[:, 0])
    else:
        kept.norm_v.copy_(nodes.norm_v)
    scaled = kept.norm_v * rsqrt_e
    torch.baddbmm(scaled, query_g, value.transpose(-1, -2), alpha=-2, out=square)
    square.mul_(rsqrt_e).add_(norm_q)
    clamped = clamp_(square, norm_q, scaled.mul_(rsqrt_e))
    # σ = softmax(p/2 · sums - log R²)
    logits = torch.log(square, out=weight)
    sums.add_(logits, alpha=LOG2_E)
    logits.mul_(-LOG2_E).add_(sums, alpha=0.5 * step.p)
    for without_edge in (absent, padded):
        if without_edge is not None:
            logits.masked_fill_(without_edge, HIDDEN)
    torch.amax(logits, -1, keepdim=True, out=kept.logsumexp).clamp_(min=HIDDEN / 4)
    powers = logits.sub_(kept.logsumexp).exp2_()
    total = powers.sum(-1, keepdim=True)
    torch.bmm(powers.mul_(rsqrt_e), value, out=kept.message)
    kept.logsumexp.add_(total.log2())
    if _may_be_blind(step, kept):
        without_edges = total == 0
        kept.logsumexp.masked_fill_(without_edges, torch.inf)
        total.masked_fill_(without_edges, 1)
    kept.message.div_(total)
    if degree is not None:
        kept.message.mul_(degree.sqrt())
    return clamped


def _backward_block(
    step: PLaplacianStep,
    heads: slice,
    nodes: Nodes,
    kept: Kept,
    upstream: Upstream,
    grads: Gradients,
    clamped: Tensor | None,
) -> Tensor:
    """Fill a block's part of the gradients; returns its part of p's."""
    key, value = widen(nodes.key), widen(nodes.value)
    half_p, value_t = 0.5 * step.p, value.transpose(-1, -2)
    plain = torch.sub(kept.sums, kept.log_total).exp2_().div_(kept.square)  # M
    sigma = torch.add(-kept.logsumexp, kept.sums, alpha=half_p).exp2_().div_(kept.square)
    weight, grad_message, query_g, norm_q = plain, upstream.message, nodes.query_g, nodes.norm_q
    degree_q = kept.degree
    if degree_q is not None and kept.dropout_mask is not None:  # both or neither
        weight = (plain * kept.dropout_mask).mul_(step.growth)
        sigma.masked_fill_(weight <= smallest_weight(weight.dtype), 0)
        grad_message, query_g = grad_message * degree_q.sqrt(), query_g * degree_q.rsqrt()
        norm_q = norm_q / degree_q
    padded = step.padded(heads)
    total, rsqrt_e = _degrees(step, weight if padded is None else weight.masked_fill(padded, 0), heads)
    # gradient of p/2 · sums - log R²
    grad_log_weight = torch.bmm(grad_message, value_t).mul_(rsqrt_e).sub_(upstream.offset).mul_(sigma)
    grad_p = torch.dot(grad_log_weight.view(-1), kept.sums.view(-1))
    distances = Distances(kept.square, rsqrt_e, kept.norm_v * rsqrt_e.square(), norm_q, clamped)
    near, grad_norm_q, grad_norm_v, degree = distance_gradients(
        step, grad_log_weight, sigma, upstream.offset, distances
    )
    grads.norm_q.copy_(grad_norm_q)
    grad_weight = degree.div_(total).mul_(-0.5)
    if step.causal:
        grad_weight = grad_weight.flip(-2).cumsum(-2).flip(-2)
    # through q·v, over -2 (p/2 - 1)
    torch.bmm(near, value, out=grads.query_g)
    if degree_q is not None:
        # through d: by the messages, S and the distances
        log_d = 0.5 * dot(upstream.message, kept.message) - upstream.log_sum
        log_d -= (half_p - 1) * norm_q * grad_norm_q + 0.5 * dot(query_g, grads.query_g)
        grad_weight = grad_weight + log_d / degree_q
        grads.norm_q.div_(degree_q)
        grads.query_g.mul_(degree_q.rsqrt())
    if grads.value is not None:
        value_g = value if kept.value_g is None else kept.value_g
        torch.mul(value_g, grad_norm_v.transpose(-1, -2).mul_(2 * (half_p - 1)), out=grads.value)
        grads.value.baddbmm_(sigma.mul_(rsqrt_e).transpose(-1, -2), grad_message)
        grads.value.baddbmm_(near.transpose(-1, -2), query_g)
        if upstream.context is not None:
            grads.value.baddbmm_(weight.transpose(-1, -2), upstream.context)
    # through M
    if padded is not None:
        grad_weight = grad_weight.masked_fill(padded, 0)
    if upstream.context is not None:
        grad_weight = torch.baddbmm(grad_weight, upstream.context, value_t, out=sigma)
    if grad_weight.shape[-2] == 1:
        mean = torch.bmm(weight, grad_weight.transpose(-1, -2))
    else:
        mean = torch.mul(weight, grad_weight, out=near).sum(-1, keepdim=True)
    mean.add_(upstream.log_sum, alpha=half_p)
    if degree_q is None:
        score = torch.sub(grad_weight, mean, out=near).mul_(weight)
    else:
        score = torch.mul(weight, grad_weight, out=near).sub_(plain.mul_(mean))
    score.add_(grad_log_weight, alpha=half_p)
    torch.bmm(score, key, out=grads.query)
    if grads.key is not None:
        if grads.key.dtype == key.dtype:
            torch.bmm(score.transpose(-1, -2), nodes.query, out=grads.key)
        else:
            grads.key.copy_(score.transpose(-1, -2) @ nodes.query)
    return grad_p
