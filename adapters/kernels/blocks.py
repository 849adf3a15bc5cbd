"""The computations of :mod:`attngraph.adapters.kernels.fused` for all heads, one block of heads at a time."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Nodes(NamedTuple):
    """Features of queries and values. For the backward pass, factors differ."""

    query: Tensor  # g n d: times the scale of the scores
    query_g: Tensor  # g n d: the query nodes' features in the metric
    norm_q: Tensor  # g n 1: |q|²
    key: Tensor  # g m d
    value: Tensor  # g m d
    norm_v: Tensor | None = None  # g 1 m: |v|², where it is known before


class Kept(NamedTuple):
    """Results of the forward pass that the backward pass needs."""

    sums: Tensor  # g n m: log2 M + log2 R², without log_total
    square: Tensor  # g n m: R²
    log_total: Tensor  # g n 1: M = exp2(sums - log_total) / square
    logsumexp: Tensor  # g n 1: σ = exp2(p/2 · sums - logsumexp) / square; infinite for a query without edges
    norm_v: Tensor  # g 1 m: |v|²
    message: Tensor  # g n d: Σ σ V/√e, times √d under dropout
    degree: Tensor | None  # g n 1: d under dropout (1 where nothing is left), else None
    dropout_mask: Tensor | None  # g n m, bool: which weights dropout keeps
    value_g: Tensor | None  # g m d: V G, where there is a metric and values need gradients


class Extra(NamedTuple):
    """A further result of the forward pass, where it is wanted."""

    context: Tensor | None  # g n d: M V, W V under dropout


class Upstream(NamedTuple):
    """Gradients that come from the step's outputs."""

    message: Tensor  # g n d: of Kept.message
    offset: Tensor  # g n 1: the mean of the messages' gradients, without that of log S
    log_sum: Tensor  # g n 1: of log S
    context: Tensor | None  # g n d: of the context


class Gradients(NamedTuple):
    """Gradients that the backward pass of a block fills in."""

    query_g: Tensor  # g n d: through q·v, over -2 (p/2 - 1)
    norm_q: Tensor  # g n 1: over p/2 - 1
    query: Tensor  # g n d: through the scores, without their scale
    key: Tensor | None  # g m d
    value: Tensor | None  # g m d
