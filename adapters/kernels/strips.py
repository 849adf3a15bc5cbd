r"""Attention and one p-Laplacian step without an array of all edges: :mod:`attngraph.adapters.kernels.fused`
for long sequences, in C (``attngraph/native/strips.c``).

A strip is some queries with all the values that they may see. Its edges are made, used and forgotten, in the
forward pass and again in the backward pass, so that memory grows linearly with the number of nodes: what is
kept are two numbers for each query (:math:`\log \sum_j e^{s_{ij}}` and :math:`\log S_i`), its messages, and a
degree for each value. The numbers are those of :mod:`attngraph.adapters.kernels.fused`.

Where queries are ordered in time, value degrees are carried from strip to strip, and each pass visits the
strips once: forward in order, with 3 matrix products (4 with the attention output), backward in reverse, with
8 (10). There the degrees are taken back from strip to strip, in double precision. In a graph without order,
degrees and their gradients need all queries: each pass visits the strips twice, with 4 and 11 products.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor

from attngraph.adapters.kernels.step import PLaplacianStep, StepCall, apply_step, dot
from attngraph.native.library import call, pointer
from attngraph.precision import widen
from attngraph.scores import AttentionScores

ROWS = 64
"""Queries of a strip, half as many as in a graph without order. More are faster, and take more memory."""
VISIBLE, ADDED = 1, 2  # kinds of masks; 0 for no mask


def strip_step(
    scores: AttentionScores,
    p: Tensor | float,
    residual: Tensor | float,
    degree: str = "sum",
    context: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The same as :func:`attngraph.adapters.kernels.fused.fused_step`, in memory that is linear in the number
    of nodes, of scores without dropout that :func:`attngraph.adapters.kernels.native.covers` accepts.

    Raises:
        ValueError: the metric requires gradients.
    """
    return apply_step(_StripStep, scores, p, residual, degree, context)


class _StripStep(torch.autograd.Function):
    """The step and its backward pass."""

    @staticmethod
    def forward(ctx, query, key, value, feature, p, residual, given: StepCall):
        step = PLaplacianStep(given, float(p), float(residual))
        log_total, log_power, message, context, degrees = torch.ops.attngraph.p_strips.default(
            *_graph(step, query, key, value, feature), given.context
        )
        kappa, node = _kappa(step, log_power), widen(query if feature is None else feature)
        out = (kappa * message).addcmul_(step.residual_share(kappa), node)
        ctx.save_for_backward(query, key, value, feature, p, residual, log_total, log_power, message, degrees)
        ctx.step = step
        out = out.to(query.dtype)
        return (out, context.to(query.dtype)) if given.context else out

    @staticmethod
    def backward(ctx, grad_out, grad_context=None):
        step, saved = ctx.step, ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            return step.backward_again(saved[:6], ctx.needs_input_grad, (grad_out, grad_context))
        inputs, (log_total, log_power, message, degrees) = saved[:4], saved[6:]
        query, key, value, feature = inputs
        grad_out = widen(grad_out)
        kappa, total = _kappa(step, log_power), torch.exp2(log_power) + step.residual
        # out = κ message + β node, κ = S/(S + r)
        apart = dot(grad_out, message - widen(query if feature is None else feature))
        grad_residual = -(kappa * apart / total.clamp_(min=torch.finfo(total.dtype).tiny)).sum()
        grad_log_sum = kappa * (1 - kappa) * apart
        offset = kappa * dot(grad_out, message) - grad_log_sum
        grad_query, grad_key, grad_value, grad_feature, grad_p = (
            torch.ops.attngraph.p_strips_backward.default(
                *_graph(step, query, key, value, feature),
                log_total,
                log_power,
                degrees,
                grad_out,
                kappa,
                offset,
                grad_log_sum,
                None if grad_context is None else widen(grad_context),
                list(ctx.needs_input_grad[1:3]),
            )
        )
        (grad_query if feature is None else grad_feature).addcmul_(step.residual_share(kappa), grad_out)
        wanted = (True, *ctx.needs_input_grad[1:3], feature is not None)
        grads = (
            grad.to(x.dtype) if want else None
            for x, grad, want in zip(inputs, (grad_query, grad_key, grad_value, grad_feature), wanted)
        )
        return *grads, (0.5 * math.log(2) * grad_p.sum()).to(kappa.dtype), grad_residual, None


def _kappa(step: PLaplacianStep, log_power: Tensor) -> Tensor:
    r""":math:`\kappa = S/(S + r)`, ``(b, h, n, 1)``; 0 for a query without edges."""
    blind = log_power == torch.inf
    if step.residual == 0:  # 1/S may be infinite
        kappa = torch.ones_like(log_power)
    else:
        kappa = 1 / (1 + step.residual * torch.exp2(-log_power))
    return kappa.masked_fill_(blind, 0)


def _graph(
    step: PLaplacianStep, query: Tensor, key: Tensor, value: Tensor, feature: Tensor | None
) -> tuple[Any, ...]:
    """The arguments that both operators have, in the order of :data:`GRAPH`."""
    scores = step.scores
    mask = scores.mask if scores.mask is None or scores.mask.dtype == torch.bool else scores.mask.float()
    return (
        widen(query),
        widen(key),
        widen(value),
        None if feature is None else widen(feature),
        step.metric,
        mask,
        scores.query_mask,
        None if scores.past_degree is None else widen(scores.past_degree.total),
        step.degree_scale,
        step.p,
        step.scale,
        step.causal,
        scores.triangular,
        ROWS if step.causal else 2 * ROWS,
    )


# ---- the operators -----------------------------------------------------------------------------------------

GRAPH = (
    "Tensor query, Tensor key, Tensor value, Tensor? feature, Tensor? metric, Tensor? mask, "
    "Tensor? query_mask, Tensor? past, Tensor? degree_scale, float p, float scale, bool causal, "
    "bool triangular, int rows"
)
OPERATORS = torch.library.Library("attngraph", "FRAGMENT")
OPERATORS.define(f"p_strips({GRAPH}, bool context) -> (Tensor, Tensor, Tensor, Tensor, Tensor)")
OPERATORS.define(
    f"p_strips_backward({GRAPH}, Tensor log_total, Tensor log_power, Tensor degrees, Tensor grad_out, "
    "Tensor kappa, Tensor offset, Tensor grad_power, Tensor? grad_context, bool[2] needed) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _fields(kind: type, names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names.split()]


class _Step(ctypes.Structure):
    """``Step`` in ``strips.c``."""

    _fields_ = [
        *_fields(ctypes.c_int, "heads heads_per_example queries values features rows threads"),
        *_fields(ctypes.c_int, "ordered triangular mask_kind failed"),
        *_fields(ctypes.c_float, "p scale"),
        *_fields(ctypes.c_long, "mask_example mask_row mask_column scale_example scale_row"),
        *_fields(ctypes.c_void_p, "mask valid past degree_scale"),
        *_fields(ctypes.c_void_p, "query key value node metric"),
        *_fields(ctypes.c_void_p, "log_total log_power message context degrees"),
        *_fields(ctypes.c_void_p, "grad_out kappa offset grad_power grad_context"),
        *_fields(ctypes.c_void_p, "grad_query grad_node grad_key grad_value grad_p"),
    ]


def _run(function: str, graph: tuple[Any, ...], **more: Tensor | None) -> None:
    """Call a function of the library.

    Args:
        function: its name.
        graph: as :func:`_graph` makes it.
        more: further tensors, by their names in ``strips.c``; results are written into theirs.

    Raises:
        MemoryError: there is no memory for a strip.
    """
    *tensors, p, scale, causal, triangular, rows = graph
    names = ("query", "key", "value", "node", "metric", "mask", "valid", "past", "degree_scale")
    held = {**dict(zip(names, tensors)), **more}
    if held["node"] is None:
        held["node"] = held["query"]
    mask, degree_scale = held["mask"], held["degree_scale"]
    for name, x in held.items():  # room for results is contiguous already
        if x is not None and name not in ("mask", "degree_scale"):
            held[name] = x.contiguous()
    b, h, n, d = held["query"].shape
    step = _Step(b * h, h, n, held["value"].shape[2], d, rows, torch.get_num_threads(), causal, triangular)
    step.p, step.scale = p, scale
    if mask is not None:
        step.mask_kind = VISIBLE if mask.dtype == torch.bool else ADDED
        step.mask_example, _, step.mask_row, step.mask_column = _strides(mask)
    if degree_scale is not None:
        step.scale_example, _, step.scale_row, _ = _strides(degree_scale)
    for name, x in held.items():
        setattr(step, name, pointer(x))
    call(function, ctypes.byref(step))


def _strides(x: Tensor) -> list[int]:
    """0 where a dimension is shared."""
    return [0 if size == 1 else stride for size, stride in zip(x.shape, x.stride())]


def _results(query: Tensor, value: Tensor, context: bool) -> tuple[Tensor, ...]:
    """Allocate the outputs of the forward pass."""
    b, h, n, d = query.shape
    return (
        query.new_empty(b, h, n, 1),
        query.new_empty(b, h, n, 1),
        query.new_empty(b, h, n, d),
        query.new_empty((b, h, n, d) if context else 0),
        query.new_empty(b, h, value.shape[2], dtype=torch.float64),
    )


def _gradients(
    query: Tensor, value: Tensor, feature: Tensor | None, needed: list[bool]
) -> tuple[Tensor, ...]:
    """Allocate the outputs of the backward pass: the gradients of queries, keys, values and features, where
    they are needed, and p's parts."""
    b, h, n, d = query.shape
    return (
        query.new_empty(b, h, n, d),
        *(query.new_empty(tuple(value.shape) if need else 0) for need in needed),
        query.new_empty(0 if feature is None else (b, h, n, d)),
        query.new_empty(b, h, dtype=torch.float64),
    )


def _forward(*arguments):
    *graph, context = arguments
    results = _results(graph[0], graph[2], context)
    names = ("log_total", "log_power", "message", "context", "degrees")
    _run("attngraph_strips", tuple(graph), **_given(names, results))
    return results


def _backward(*arguments):
    graph, more, needed = arguments[:-9], arguments[-9:-1], arguments[-1]
    names = (
        *("log_total", "log_power", "degrees"),
        *("grad_out", "kappa", "offset", "grad_power", "grad_context"),
    )
    results = _gradients(graph[0], graph[2], graph[3], needed)
    into = _given(("grad_query", "grad_key", "grad_value", "grad_node", "grad_p"), results)
    if into["grad_node"] is None:
        into["grad_node"] = into["grad_query"]
    _run("attngraph_strips_backward", graph, **dict(zip(names, more)), **into)
    return results


def _given(names, tensors) -> dict[str, Tensor | None]:
    """By name; None for those without numbers."""
    return {name: x if x.numel() else None for name, x in zip(names, tensors)}


OPERATORS.impl("p_strips", _forward, "CPU")
OPERATORS.impl("p_strips_backward", _backward, "CPU")
torch.library.register_fake("attngraph::p_strips", lambda *x: _results(x[0], x[2], x[-1]), lib=OPERATORS)
torch.library.register_fake(
    "attngraph::p_strips_backward", lambda *x: _gradients(x[0], x[2], x[3], x[-1]), lib=OPERATORS
)
