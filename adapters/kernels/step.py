"""One p-Laplacian step, for all kernels: its numbers, for some heads, and how its function is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attngraph.adapters.p_scheme import p_steps
from attngraph.backends.dense import DenseEdges
from attngraph.edges import smallest_weight
from attngraph.functorch import transformed
from attngraph.norms import square_norm_by_picture
from attngraph.precision import widen
from attngraph.scores import LOG2_E, AttentionScores

ALL = slice(None)


class StepCall(NamedTuple):
    """The arguments of a step that get no gradients."""

    scores: AttentionScores
    degree: str
    context: bool
    keep: bool  # whether a backward pass may follow


def apply_step(
    function: type[torch.autograd.Function],
    scores: AttentionScores,
    p: Tensor | float,
    residual: Tensor | float,
    degree: str,
    context: bool,
) -> tuple[Tensor, Tensor | None]:
    r"""Call the function of a step, outside of autocast; or, where there is no edge and where it cannot be
    called (see :func:`attngraph.functorch.transformed`), take the step in plain tensor operations.

    Args:
        function: takes ``(query, key, value, feature, p, residual, call)``.
        scores: the attention; its metric must not require gradients.
        p: exponent.
        residual: :math:`2\mu/p`.
        degree: value degree, ``"sum"`` or ``"mean"``.
        context: whether the attention output :math:`M V` of all queries, padded ones too, is wanted.

    Returns:
        :math:`\bar U` ``(b, h, n, d)``, and :math:`M V` or None, in the dtype of ``scores.query``.

    Raises:
        ValueError: the metric requires gradients.
    """
    if scores.metric is not None and scores.metric.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "the p-Laplacian step in one function has no gradient for the metric: detach it, or use the "
            "scheme on scores.graph()"
        )
    precision = torch.promote_types(scores.query.dtype, torch.float32)
    p, residual = (  # a new number on a GPU is filled in there: copying it would wait
        x.to(scores.query.device, precision)
        if isinstance(x, Tensor)
        else torch.full((), x, dtype=precision, device=scores.query.device)
        for x in (p, residual)
    )
    plain = transformed() or 0 in scores.shape[:4]
    if not plain:
        scores = _with_scale(scores)
    inputs = (scores.query, scores.key, scores.value, scores.feature, p, residual)
    with torch.autocast(scores.query.device.type, enabled=False):
        if plain:
            out: Any = plain_step(scores, degree, context, *inputs)
            return out if context else (*out, None)
        out = function.apply(*inputs, StepCall(scores, degree, context, torch.is_grad_enabled()))
    return out if context else (out, None)


def plain_step(scores: AttentionScores, degree: str, context: bool, *inputs: Any) -> tuple[Tensor, ...]:
    """A step in tensor operations, which autograd can differentiate any number of times.

    Args:
        scores: all of the attention but the inputs.
        degree: value degree, ``"sum"`` or ``"mean"``.
        context: whether the attention output of all queries is wanted too.
        inputs: query, key, value and feature, as in the scores, and p and the residual, as for
            :func:`apply_step`.

    Returns:
        One or two tensors, as :func:`apply_step` gives them.
    """
    *features, p, residual = inputs
    changes: Any = dict(zip(("query", "key", "value", "feature"), features))
    wide = replace(scores, **changes).wide()
    graph, output = wide.graph_and_context() if context else (wide.graph(), None)
    outputs = (p_steps(DenseEdges(graph), p, residual, degree).query, output)
    return tuple(x.to(changes["query"].dtype) for x in outputs if x is not None)


def differentiable_backward(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """A backward pass that can itself be differentiated, for a function whose own one cannot.

    Args:
        function: from the inputs to the outputs, in operations that autograd records.
        inputs: what the function got.
        needed: which of the inputs need gradients.
        grads: gradients of the outputs; None where an output was not used.

    Returns:
        The gradients of the inputs, None where none is needed.
    """
    with torch.enable_grad():
        # the same tensor in two places gets a gradient for each
        parts = [None if x is None else x.view_as(x) for x in inputs]
        pairs = [
            (x, grad) for x, grad in zip(function(*parts), grads) if grad is not None and x.requires_grad
        ]
        wanted = {k: x for k, (x, need) in enumerate(zip(parts, needed)) if x is not None and need}
        outputs, above = [x for x, _ in pairs], [grad for _, grad in pairs]
        found = torch.autograd.grad(
            outputs, list(wanted.values()), above, create_graph=True, allow_unused=True
        )
    by_place = dict(zip(wanted, found))
    return [by_place.get(k) for k in range(len(parts))]


def plain_backward(
    scores: AttentionScores,
    degree: str,
    context: bool,
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """The backward pass of :func:`plain_step`, which can itself be differentiated, as the function of a step
    returns it.

    Args:
        scores, degree, context, inputs: as for :func:`plain_step`.
        needed: which of the inputs need gradients.
        grads: of the outputs.
    """
    run = partial(plain_step, scores, degree, context)
    with torch.autocast(scores.query.device.type, enabled=False):
        return *differentiable_backward(run, inputs, needed, grads[: 1 + context]), None


class PLaplacianStep:
    r"""The numbers of a step, and the operations on them that kernels share.

    Attributes:
        scores: the attention without its queries, keys and values: shape, mask, degrees.
        p, residual, scale: the exponent, :math:`2\mu/p`, and the factor of the scores.
        causal: whether the queries are ordered in time.
        count: the number of heads of all examples, ``g``.
        metric: ``(h, d, d)`` or None; shared by all examples, so that layers hold no copies.
        past: sums of weights left by earlier queries, ``(g, 1, m)`` or None.
        dropout, growth: the probability of dropout, and the factor of the weights that it keeps. The caller
            holds the mask.
    """

    def __init__(self, call: StepCall, p: float, residual: float):
        scores = call.scores
        b, self.heads, *_ = scores.shape
        self.p, self.residual, self.scale = p, residual, float(scores.scale)
        self.causal = scores.causal
        self.count = b * self.heads
        self.degree_scale = scores.degree_scale(call.degree)
        self.metric = None if scores.metric is None else widen(scores.metric)
        past = scores.past_degree
        self.past = None if past is None else past.total.flatten(0, 1)[:, None]
        self.dropout, self.growth = scores.dropout, scores.growth
        self.scores, self.degree, self.context = scores.without_features(), call.degree, call.context
        rows = scores.query_mask if call.context else None
        self._padded = None if rows is None else ~rows[:, None, :, None]
        self._shown = self.scores if rows is None else self.scores.without_query_mask()

    def backward_again(
        self,
        inputs: tuple[Tensor | None, ...],
        needed: tuple[bool, ...],
        grads: tuple[Tensor | None, ...],
        dropout_mask: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        """The backward pass in tensor operations, where it is to be differentiated itself.

        Args:
            inputs: queries, keys, values, features, p and the residual.
            needed: which of them need gradients.
            grads: of the outputs.
            dropout_mask: which weights dropout keeps, bool ``(g, n, m)``, or None.
        """
        scores = self.scores
        if dropout_mask is not None:
            scores = replace(scores, kept=dropout_mask.view(scores.shape[:4]), dropout=self.dropout)
        return plain_backward(scores, self.degree, self.context, inputs, needed, grads)

    def example(self, x: Tensor, heads: slice) -> Tensor:
        """``(b, 1, ...)`` or ``(1, 1, ...)`` as ``(g, ...)`` for some heads."""
        if x.shape[0] == 1:
            return x[0]
        return x[torch.arange(self.count, device=x.device)[heads] // self.heads, 0]

    def padded(self, heads: slice) -> Tensor | None:
        """The queries that attend, since the attention output is wanted, but have no edges, ``(g, n, 1)``; or
        None."""
        return None if self._padded is None else self.example(self._padded, heads)

    def mask_(self, logits: Tensor, heads: slice) -> Tensor:
        """Add the mask to scores to base 2, in place; to those of padded queries the model's."""
        return self._shown.mask_(logits, unit=LOG2_E, of=lambda x: self.example(x, heads))

    def with_metric(self, x: Tensor, heads: slice = ALL, out: Tensor | None = None) -> Tensor:
        """:math:`x G`; in ``out`` if that is given and there is a metric. Examples take turns, so that the
        metric is not copied for each."""
        if self.metric is None:
            return x
        out = torch.empty_like(x) if out is None else out
        first, stop, _ = heads.indices(self.count)
        start = first
        while start < stop:
            end = min(stop, start - start % self.heads + self.heads)
            part, head = slice(start - first, end - first), start % self.heads
            torch.bmm(x[part], self.metric[head : head + end - start], out=out[part])
            start = end
        return out

    def square_norms(self, value: Tensor) -> Tensor | None:
        """:math:`|v|^2` of values ``(g, m, d)``, as ``(g, 1, m)``, computed once for each image; None if no
        two examples are known to share an image."""
        picture = self.scores.picture
        if picture is None:
            return None
        value = value.unflatten(0, (-1, self.heads))
        return square_norm_by_picture(value, self.metric, picture).flatten(0, 1)[:, None]

    def rsqrt_degree(self, total: Tensor, heads: slice) -> Tensor:
        r""":math:`1/\sqrt e` from sums of weights at the values.

        ``(g, 1, m)``, or ``(g, n, m)`` in a causal graph.
        """
        if self.degree_scale is None:
            return total.rsqrt()
        scaled = total * self.example(self.degree_scale, heads)
        return scaled.clamp_(min=smallest_weight(total.dtype)).rsqrt_()

    def residual_share(self, kappa: Tensor) -> Tensor:
        r""":math:`1 - \kappa`, and exactly 0 without a residual."""
        return 1 - kappa if self.residual > 0 else torch.zeros_like(kappa)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Scalar products of rows, ``(..., 1)``."""
    return (x * y).sum(-1, keepdim=True)


def _with_scale(scores: AttentionScores) -> AttentionScores:
    """The same scores with a plain number as their scale: a scale that is trained, or one per head, becomes
    part of the queries."""
    scale = scores.scale
    if not isinstance(scale, Tensor):
        return scores
    if scale.numel() == 1 and not scale.requires_grad:
        return replace(scores, scale=float(scale))
    query = (widen(scores.query) * scale).to(scores.query.dtype)
    return replace(scores, query=query, feature=scores.node, scale=1.0)
