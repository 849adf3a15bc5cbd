r"""Attention and one p-Laplacian step on NVIDIA GPUs, in Triton.

The same numbers and gradients as :func:`attngraph.adapters.kernels.fused.fused_step`, in memory that is
linear in the number of nodes: tiles of edges are computed again in the backward pass
(``_triton_kernels.py``). In a causal graph the degrees with which each block of rows begins are held during a
pass, one number for as many edges as a block has rows.

:func:`covers` says for which attention. Second derivatives (``create_graph=True``), the transforms of
``torch.func``, forward-mode differentiation and ``torch.export`` run in the plain tensor operations of
:mod:`attngraph.adapters.p_scheme`; dropout, float64 and heads of more than 128 features are for
:func:`~attngraph.adapters.kernels.fused.fused_step`.

The passes are the operators ``torch.ops.attngraph.p_laplacian_step`` and ``p_laplacian_step_backward``;
Triton is imported when they run.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache

import torch
from torch import Tensor

from attngraph.adapters.kernels.step import StepCall, apply_step, plain_backward
from attngraph.precision import widen
from attngraph.scores import AttentionScores

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MOST_FEATURES = 128  # per head
MOST_HEADS = 2**16 - 1  # of all examples: blocks in the second dimension of a launch
LEAST_CAPABILITY = (8, 0)  # of a GPU: Ampere, the first with TF32 and bfloat16


def covers(scores: AttentionScores) -> bool:
    """Whether :func:`triton_step` takes this attention.

    It does where Triton is installed, for float32, bfloat16 and float16 on an NVIDIA GPU of Ampere or later,
    without dropout, up to 128 features per head; for all degrees, masks and contexts. Under Triton's
    interpreter (``TRITON_INTERPRET=1``) it takes the same in the processor's memory, slowly: for tests.
    """
    query = scores.query
    return (
        query.dtype in DTYPES
        and all(x is None or x.dtype == query.dtype for x in (scores.key, scores.value, scores.feature))
        and scores.kept is None
        and scores.shape[4] <= MOST_FEATURES
        and scores.shape[0] * scores.shape[1] <= MOST_HEADS
        and _has_triton()
        and _runs_on(query.device)
    )


def triton_step(
    scores: AttentionScores,
    p: Tensor | float,
    residual: Tensor | float,
    degree: str = "sum",
    context: bool = False,
) -> tuple[Tensor, Tensor | None]:
    r"""One step of :class:`attngraph.adapters.pgnn.PGNN` from queries, keys and values, and the attention
    output if asked for.

    No number is read from the GPU, so that nothing waits for it. Sums are taken in the same order in every
    run.

    Args:
        scores: attention that :func:`covers` accepts; its metric must not require gradients.
        p: exponent.
        residual: :math:`2\mu/p`.
        degree: value degree, ``"sum"`` or ``"mean"``.
        context: whether :math:`M V` of all queries, padded ones too, is wanted.

    Returns:
        :math:`\bar U` ``(b, h, n, d)``, and the context or None, in the dtype of ``scores.query``.

    Raises:
        ValueError: the metric requires gradients.
    """
    return apply_step(_TritonStep, scores, p, residual, degree, context)


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@cache
def _runs_on(device: torch.device) -> bool:
    if device.type == "cpu":
        return os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


class _TritonStep(torch.autograd.Function):
    """The step and its backward pass."""

    @staticmethod
    def forward(ctx, query, key, value, feature, p, residual, call: StepCall):
        scores, past = call.scores, call.scores.past_degree
        ctx.fixed = (
            scores.mask,
            scores.query_mask,
            None if scores.metric is None else widen(scores.metric),
            None if past is None else past.total.float(),
            scores.degree_scale(call.degree),
            scores.scale,
            scores.triangular,
            scores.causal,
        )
        ctx.call = call._replace(scores=scores.without_features())
        inputs = (query, key, value, feature, p, residual)
        out, attended, *results = _forward(*inputs, *ctx.fixed, call.context)
        ctx.save_for_backward(*inputs, *results)
        return (out, attended) if call.context else out

    @staticmethod
    def backward(ctx, grad_out, grad_context=None):
        saved = ctx.saved_tensors
        inputs, results = saved[:6], saved[6:]
        if torch.is_grad_enabled():  # to be differentiated again
            scores, degree, context, _ = ctx.call
            grads = grad_out, grad_context
            return plain_backward(scores, degree, context, inputs, ctx.needs_input_grad, grads)
        keys, values = ctx.needs_input_grad[1:3]
        query, key, value, feature, p, residual = _backward(
            *inputs, *ctx.fixed, *results, grad_out, grad_context, keys, values
        )
        return (
            query,
            key if keys else None,
            value if values else None,
            feature if inputs[3] is not None else None,
            p,
            residual,
            None,
        )


ATTENTION = (
    "Tensor query, Tensor key, Tensor value, Tensor? feature, Tensor p, Tensor residual, Tensor? mask, "
    "Tensor? query_mask, Tensor? metric, Tensor? past, Tensor? degree_scale, float scale, bool triangular, "
    "bool causal"
)
"""Parameters of both operators: the fields of ``Attention`` in ``_triton_launch.py``."""
RESULTS = "Tensor message, Tensor log_total, Tensor log_sum, Tensor norm_q, Tensor norm_v, Tensor degree"
"""Those of ``Results`` in ``_triton_launch.py``. The degrees of a causal graph are computed again."""
UPSTREAM = "Tensor grad_out, Tensor? grad_context, bool keys, bool values"
_GIVEN = ATTENTION.count(",") + 1


def _or_nothing(x: Tensor | None, like: Tensor) -> Tensor:
    """An operator returns no None: an empty tensor in its place."""
    return like.new_empty(0) if x is None else x


@torch.library.custom_op(
    "attngraph::p_laplacian_step", mutates_args=(), schema=f"({ATTENTION}, bool context) -> Tensor[]"
)
def _forward(*arguments):
    """The output, the context or nothing, and the results."""
    from attngraph.adapters.kernels import _triton_launch as launch

    given, context = launch.Attention(*arguments[:_GIVEN]), arguments[_GIVEN]
    out, attended, results = launch.forward(given, context)
    degree = _or_nothing(None if given.causal else results.degree, results.norm_v)
    return [out, _or_nothing(attended, out), *results._replace(degree=degree)]


@_forward.register_fake
def _(*arguments):
    query, key, _, _, p = arguments[:5]
    causal, context = arguments[_GIVEN - 1], arguments[_GIVEN]
    b, h, n, d = query.shape
    g, m = b * h, key.shape[2]
    out = query.new_empty(query.shape)
    results = (p.new_empty(g, *shape) for shape in ((n, d), (n,), (n,), (n,), (m,)))
    return [
        out,
        query.new_empty(query.shape if context else 0),
        *results,
        p.new_empty(0) if causal else p.new_empty(g, m),
    ]


@torch.library.custom_op(
    "attngraph::p_laplacian_step_backward",
    mutates_args=(),
    schema=f"({ATTENTION}, {RESULTS}, {UPSTREAM}) -> Tensor[]",
)
def _backward(*arguments):
    """Gradients of query, key, value, feature, p and the residual; nothing where there is none."""
    from attngraph.adapters.kernels import _triton_launch as launch

    given = launch.Attention(*arguments[:_GIVEN])
    *results, grad_out, grad_context, keys, values = arguments[_GIVEN:]
    grads = launch.backward(given, launch.Results(*results), grad_out, grad_context, keys, values)
    return [_or_nothing(grad, given.p) for grad in grads]


@_backward.register_fake
def _(*arguments):
    query, key, value, feature, p, residual = arguments[:6]
    keys, values = arguments[-2:]
    wanted = (query, key if keys else None, value if values else None, feature)
    grads = (p.new_empty(0) if x is None else x.new_empty(x.shape) for x in wanted)
    return [*grads, p.new_empty(()), residual.new_empty(())]
