r"""Attention and one p-Laplacian step in C, for CPUs: the computation of
:mod:`attngraph.adapters.kernels.fused`, one head of one example at a time (``attngraph/native/step.h`` has
the formulas).

The backward pass recomputes all numbers per edge, including scores and products of features: keeping these
two would save a tenth of the time of both passes, and cost 1.6 times the memory of everything else that is
kept. So a layer keeps two numbers for each query and for each value, in addition to views of queries, keys
and values. While a model decodes with a key/value cache, its weights are used directly (in single precision),
and norms are computed for new values only.

The two functions of the library are PyTorch operators, ``attngraph::p_step`` and
``attngraph::p_step_backward``, on tensors in single precision.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attngraph.adapters.kernels.step import StepCall, apply_step, plain_backward
from attngraph.degrees import PastDegree
from attngraph.functorch import transformed
from attngraph.native.library import call, library, pointer
from attngraph.norms import KeptNorms, square_norm_by_picture
from attngraph.scores import AttentionScores

PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)


def native_step(
    scores: AttentionScores,
    p: Tensor | float,
    residual: Tensor | float,
    degree: str = "sum",
    context: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The same as :func:`attngraph.adapters.kernels.fused.fused_step`, for scores that :func:`covers`
    accepts."""
    return apply_step(_NativeStep, scores, p, residual, degree, context)


def covers(scores: AttentionScores) -> bool:
    """Whether the step of these scores can be computed in C: on a processor, in single or half precision,
    outside transforms of torch.func, forward-mode differentiation and torch.export."""
    tensors = (scores.query, scores.key, scores.value, scores.node)
    in_reach = not transformed() and all(x.is_cpu and x.dtype in PRECISIONS for x in tensors)
    return in_reach and _there_is_library()


@torch.compiler.assume_constant_result
def _there_is_library() -> bool:
    return library() is not None


class _Attention(NamedTuple):
    """Arguments of the operators other than features and numbers, in the order of their signatures."""

    metric: Tensor | None  # h d d
    mask: Tensor | None  # b 1 n m, some of them 1: bool or float32
    query_mask: Tensor | None  # b n
    kept: Tensor | None  # b h n m
    past: Tensor | None  # b h m
    degree_scale: Tensor | None  # b n, or b in a graph without order
    norm_v: Tensor | None  # b h ≤m: |v|² of the first values
    known: Tensor | None  # b h n m: the weights, in a forward pass alone
    scale: float
    growth: float
    causal: bool
    triangular: bool
    context: bool

    @classmethod
    def of(cls, call: StepCall) -> _Attention:
        """As the scores have it."""
        scores, past = call.scores, call.scores.past_degree
        mask, degree_scale = scores.mask, scores.degree_scale(call.degree)
        return cls(
            None if scores.metric is None else scores.metric.float().contiguous(),
            mask if mask is None or mask.dtype == torch.bool else mask.float(),
            None if scores.query_mask is None else scores.query_mask.contiguous(),
            None if scores.kept is None else scores.kept.contiguous(),
            None if past is None else past.total.float().contiguous(),
            None if degree_scale is None else degree_scale.float().flatten(1).contiguous(),
            _known_norms(scores),
            _known_weights(call),
            float(scores.scale),
            scores.growth,
            scores.causal,
            scores.triangular,
            call.context,
        )

    def scores(self, inputs: tuple[Tensor, ...], queries: Tensor | None) -> AttentionScores:
        """The scores that these come from; ``queries`` is :attr:`attngraph.degrees.PastDegree.queries`."""
        query, key, value, feature, *_ = inputs
        return AttentionScores(
            query,
            key,
            value,
            scale=self.scale,
            mask=self.mask,
            query_mask=self.query_mask,
            triangular=self.triangular,
            causal=self.causal,
            metric=self.metric,
            past_degree=None if self.past is None or queries is None else PastDegree(self.past, queries),
            feature=feature,
            kept=self.kept,
            dropout=1 - 1 / self.growth,
        )


class _NativeStep(torch.autograd.Function):
    """The step and its backward pass."""

    @classmethod
    def apply(cls, *args):
        """Without gradients, a third of the time of a small call is saved where autograd is not asked."""
        return super().apply(*args) if torch.is_grad_enabled() else cls.forward(None, *args)

    @staticmethod
    def forward(ctx, query, key, value, feature, p, residual, step: StepCall):
        inputs, attention = (query, key, value, feature, p, residual), _Attention.of(step)
        out, context, *kept = torch.ops.attngraph.p_step.default(*map(_single, inputs), *attention)
        norms = _kept_norms(step.scores)
        if norms is not None:
            norm_v: Any = kept[2] if kept[2].numel() else attention.norm_v
            norms.known[:] = [norm_v]
        if step.keep:
            past = step.scores.past_degree
            ctx.save_for_backward(*inputs, *attention[:8], *kept, None if past is None else past.queries)
            ctx.options, ctx.degree = attention[8:], step.degree
        out = out.to(query.dtype)
        return (out, context.to(query.dtype)) if step.context else out

    @staticmethod
    def backward(ctx, *grads):
        saved = ctx.saved_tensors  # read once: under checkpointing each reading computes them again
        inputs, attention = saved[:6], _Attention(*saved[6:14], *ctx.options)
        *kept, queries = saved[14:]
        if torch.is_grad_enabled():  # to be differentiated again
            scores = attention.scores(inputs, queries)
            return plain_backward(scores, ctx.degree, attention.context, inputs, ctx.needs_input_grad, grads)
        grad_out, grad_context = map(_single, (*grads, None)[:2])
        wanted = ctx.needs_input_grad[1:3]
        *found, numbers = torch.ops.attngraph.p_step_backward.default(
            *map(_single, inputs), *attention, *kept, grad_out, grad_context, *wanted
        )
        wanted = (True, *wanted, inputs[3] is not None)
        of_features = (grad.to(x.dtype) if want else None for x, grad, want in zip(inputs, found, wanted))
        return *of_features, *numbers.unbind(), None


def _kept_norms(scores: AttentionScores) -> KeptNorms | None:
    """Cached norms of these values, if there are any."""
    kept = scores.kept_norms
    return kept if kept is not None and kept.value is scores.value else None


def _known_norms(scores: AttentionScores) -> Tensor | None:
    """|v|² of a cache's values, without new ones, or of those that several examples of a batch share; else
    None."""
    kept = _kept_norms(scores)
    if kept is not None and kept.square is not None:
        return kept.square.float().contiguous()
    if scores.picture is not None:
        return square_norm_by_picture(scores.value, scores.metric, scores.picture).float()
    return None


def _known_weights(call: StepCall) -> Tensor | None:
    """The weights that a model has computed, where no backward pass is to compute them again; else None.
    Those in half precision are not exact enough."""
    known = call.scores.known_weight
    if known is None or call.keep or call.scores.kept is not None or known.dtype != torch.float32:
        return None
    return known.contiguous()


def _single(x: Tensor | None) -> Tensor | None:
    """``x`` in single precision; None stays None."""
    return None if x is None else x.float()


# ---- operators -----------------------------------------------------------------------------------------

ARGUMENTS = (
    "Tensor query, Tensor key, Tensor value, Tensor? feature, Tensor p, Tensor residual, Tensor? metric, "
    "Tensor? mask, Tensor? query_mask, Tensor? kept, Tensor? past, Tensor? degree_scale, Tensor? norm_v, "
    "Tensor? known, float scale, float growth, bool causal, bool triangular, bool context"
)
OPERATORS = torch.library.Library("attngraph", "FRAGMENT")
OPERATORS.define(f"p_step({ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)")
OPERATORS.define(
    f"p_step_backward({ARGUMENTS}, Tensor logs, Tensor degree, Tensor kept_norm_v, Tensor grad_out, "
    "Tensor? grad_context, bool of_key, bool of_value) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)

_STEP = struct.Struct("8q2d2q16qq5q6qq8q4q")
"""The struct ``Step`` of ``step.h``."""
_BACKWARD = struct.Struct("16q2q")
"""The rest of the struct ``Backward`` of ``step_backward.c``."""


def _outputs(
    query: Tensor, value: Tensor, norm_v: Tensor | None, causal: bool, context: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Allocate the outputs of ``p_step``: out, and the context or nothing, ``(b, h, n, d)`` in the order of
    memory ``(b, n, h, d)``; the logarithms of the scores' and the messages' sums, ``(2, b, h, n)``; the value
    degrees, unless they depend on the query, and |v|², unless it is known of all values, ``(b, h, m)``."""
    b, h, n, d = query.shape
    m, empty = value.shape[2], query.new_empty
    known = 0 if norm_v is None else norm_v.shape[2]
    return (
        empty(b, n, h, d).transpose(1, 2),
        empty(b, n if context else 0, h, d).transpose(1, 2),
        empty(2, b, h, n),
        empty(b, h, 0 if causal else m),
        empty(b, h, 0 if known == m else m),
    )


def _p_step(query, key, value, feature, p, residual, *attention):
    attention = _Attention(*attention)
    outputs = _outputs(query, value, attention.norm_v, attention.causal, attention.context)
    out, context, *kept = outputs
    inputs = (_rows(query), _rows(key), _rows(value), None if feature is None else _rows(feature))
    fields = _fields(inputs, p, residual, attention, kept, out, context if attention.context else None)
    call("attngraph_step", _STEP.pack(*fields))
    return outputs


def _gradients(
    query: Tensor, key: Tensor, value: Tensor, feature: Tensor | None, of_key: bool, of_value: bool
):
    """Allocate the outputs of ``p_step_backward``; nothing for gradients that are not wanted."""
    none = query.new_empty(0)
    b, h, n, d = query.shape
    like = [query.new_empty(b, n, h, d).transpose(1, 2)]
    for x, wanted in ((key, of_key), (value, of_value), (feature, True)):
        like.append(_rows(torch.empty_like(_rows(x))) if wanted and x is not None else none)
    return like


def _p_step_backward(query, key, value, feature, p, residual, *rest):
    attention, (logs, degree, norm_v, grad_out, grad_context, *wanted) = _Attention(*rest[:13]), rest[13:]
    b, h, _, _ = query.shape
    grads = _gradients(query, key, value, feature, *wanted)
    numbers, parts = query.new_empty(2), query.new_empty(b, h, 2, dtype=torch.float64)
    inputs = (_rows(query), _rows(key), _rows(value), None if feature is None else _rows(feature))
    grad_out, grad_context = _rows(grad_out), None if grad_context is None else _rows(grad_context)
    fields = _fields(inputs, p, residual, attention, (logs, degree, norm_v), grad_out, grad_context)
    more = [x for grad in grads for x in _strides(grad if grad.numel() else None)]
    call(
        "attngraph_step_backward",
        _STEP.pack(*fields) + _BACKWARD.pack(*more, *map(pointer, (numbers, parts))),
    )
    return (*grads, numbers)


def _rows(x: Tensor) -> Tensor:
    """The same tensor if each row is contiguous in memory, else a copy."""
    whole = x.stride(3) == 1 and (x.stride(2) >= x.shape[3] or x.shape[2] == 1)
    return x if whole else x.contiguous()


def _strides(x: Tensor | None) -> tuple[int, int, int, int]:
    """The struct ``Rows`` of ``step.h``."""
    if x is None:
        return 0, 0, 0, 0
    example, head, row, _ = x.stride()
    return x.data_ptr(), example, head, max(row, x.shape[3])


def _fields(inputs, p, residual, attention: _Attention, kept, out: Tensor, context: Tensor | None) -> list:
    """The fields of :data:`_STEP`."""
    query, key, value, feature = inputs
    (b, h, n, d), m = query.shape, value.shape[2]
    first_norms = attention.norm_v
    known = 0 if first_norms is None else first_norms.shape[2]
    mask, mask_strides = attention.mask, (0, 0, 0)
    if mask is not None:
        example, _, row, column = (0 if size == 1 else by for size, by in zip(mask.shape, mask.stride()))
        mask_strides = example, row, column
    logs, norm_v = kept[0].data_ptr(), first_norms if known == m else kept[2]
    return [
        *(b, h, n, m, d, torch.get_num_threads()),
        *(attention.causal, attention.triangular, attention.scale, attention.growth),
        *(p.data_ptr(), residual.data_ptr()),
        *_strides(query),
        *_strides(key),
        *_strides(value),
        *_strides(query if feature is None else feature),
        pointer(attention.metric) or 0,
        *(pointer(mask) or 0, *mask_strides, mask is not None and mask.dtype == torch.bool),
        *(pointer(x) or 0 for x in (attention.query_mask, attention.kept, attention.past)),
        *(pointer(x) or 0 for x in (attention.degree_scale, attention.known)),
        pointer(first_norms) or 0,
        known,
        *_strides(out),
        *_strides(context),
        *(logs, logs + 4 * b * h * n, kept[1].data_ptr(), pointer(norm_v)),
    ]


def _p_step_fake(query, key, value, feature, p, residual, *attention):
    attention = _Attention(*attention)
    return _outputs(query, value, attention.norm_v, attention.causal, attention.context)


def _p_step_backward_fake(query, key, value, feature, p, residual, *rest):
    grads = _gradients(query, key, value, feature, *rest[-2:])
    return (*grads, query.new_empty(2))


for name, kernel, fake in (
    ("p_step", _p_step, _p_step_fake),
    ("p_step_backward", _p_step_backward, _p_step_backward_fake),
):
    OPERATORS.impl(name, kernel, "CPU")
    torch.library.register_fake(f"attngraph::{name}", fake, lib=OPERATORS)
