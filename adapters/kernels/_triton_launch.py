r"""Attention and one p-Laplacian step on a GPU, forward and backward, from tensors to tensors, without
autograd: launches the kernels of ``_triton_kernels.py``.

Triton must be there when this is imported. This file and the kernels need nothing but PyTorch and Triton, and
can be published on their own (``experiments/results/bench/README.md``). No number of a tensor is read on the
host, so nothing waits for the GPU.

Axes in comments: ``g = b·h`` heads of all examples, ``n`` queries, ``m`` values, ``d`` features per head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from . import _triton_kernels as kernels

CARRIES = 2**26
"""Numbers (256 MB) for the degrees with which each block of rows begins, in a causal graph: one for as many
edges as a block has rows. Heads are launched a few at a time where all of them need more."""


class Blocks(NamedTuple):
    """Tile sizes for the edges of a head, and compilation options of a kernel."""

    rows: int
    columns: int
    warps: int
    stages: int


BLOCKS = {  # compute capability from, features per head up to: first match
    ((8, 0), 64): Blocks(32, 32, 8, 2),
    ((8, 0), 128): Blocks(16, 32, 8, 2),
}
"""Not tuned on a GPU: the largest tiles of those tried that the compiler can keep in registers, but for some
hundred bytes."""
INTERPRETED = Blocks(16, 16, 1, 1)


class Attention(NamedTuple):
    """The step's inputs. Queries, keys, values and features may be strided."""

    query: Tensor  # b h n d
    key: Tensor  # b h m d
    value: Tensor  # b h m d
    feature: Tensor | None  # b h n d; None: the queries
    p: Tensor  # (), float32
    residual: Tensor  # (), float32
    mask: Tensor | None  # b|1 1 n|1 m|1: bool, or numbers that are added
    query_mask: Tensor | None  # b n, bool: False for padded queries
    metric: Tensor | None  # h d d
    past: Tensor | None  # b h m: degrees left by earlier queries
    degree_scale: Tensor | None  # b|1 1 n|1 1: of degree "mean"
    scale: float  # of the scores
    triangular: bool  # query i sees values up to i + m - n
    causal: bool


class Array(NamedTuple):
    """``(b, h, rows, d)`` with its strides; features are next to each other."""

    data: Tensor | None
    example: int = 0
    head: int = 0
    row: int = 0

    @staticmethod
    def of(x: Tensor | None) -> Array:
        """A tensor, or none."""
        if x is None:
            return Array(None)
        x = x if x.stride(-1) == 1 else x.contiguous()
        return Array(x, *x.stride()[:3])


class Shared(NamedTuple):
    """``(b|1, 1, n|1, m|1)`` with its strides: 0 where it is broadcast."""

    data: Tensor | None
    example: int = 0
    row: int = 0
    column: int = 0

    @staticmethod
    def of(x: Tensor | None) -> Shared:
        """A tensor, or none."""
        if x is None:
            return Shared(None)
        data = x.view(torch.uint8) if x.dtype == torch.bool else x
        example, _, row, column = (0 if size == 1 else step for size, step in zip(x.shape, x.stride()))
        return Shared(data, example, row, column)


class Inputs(NamedTuple):
    """Inputs of all kernels."""

    query: Array
    key: Array
    value: Array
    node: Array  # the query nodes' features
    query_g: Array  # these times the metric
    value_g: Array  # the values times the metric
    mask: Shared
    degree_scale: Shared
    valid: Tensor | None  # b n, bytes: 0 for a padded query
    past: Tensor | None  # g m
    p: Tensor
    residual: Tensor
    scale: float
    heads: int
    n: int
    m: int
    d: int
    first: int  # of the heads of all examples, that of the first program


class Results(NamedTuple):
    """Results of the forward pass that the backward pass needs: contiguous, float32."""

    message: Tensor  # g n d: the messages over S
    log_total: Tensor  # g n: the row normalisers L
    log_sum: Tensor  # g n: log2 S; infinite for a query without edges
    norm_q: Tensor  # g n: |q|²
    norm_v: Tensor  # g m: |v|²
    degree: Tensor  # g m: E; in a causal graph, of some heads, that with which each block of rows begins


class Upstream(NamedTuple):
    """Gradients of the outputs, and numbers per query, ``(g, n)``, made of them."""

    out: Array
    context: Array
    kappa: Tensor  # S / (S + r)
    offset: Tensor  # the mean of the messages' gradients, less the next
    log_sum: Tensor  # gradient of log S
    residual: Tensor  # a query's part of the residual's gradient
    p: Tensor  # and of p's
    mean: Tensor  # mean of M's gradients


class Gradients(NamedTuple):
    """Outputs of the backward kernels: contiguous."""

    query: Tensor  # g n d
    node: Tensor | None  # g n d; None where the query is the feature
    through: Tensor | None  # g n d: of the features times the metric; None without a metric
    key: Tensor | None  # g m d
    value: Tensor | None  # g m d
    degree: Tensor  # g m: of E; in a causal graph, of some heads, what later rows add to each block's


@dataclass(frozen=True)
class Meta:
    """Compile-time constants of a kernel."""

    rows: int
    columns: int
    width: int  # d, rounded up to a power of two
    mask: int  # 0: none, 1: bool, 2: added
    padded: bool
    triangular: bool
    causal: bool
    mean: bool  # degree "mean"
    past: bool
    metric: bool
    feature: bool  # whether the query nodes have separate features
    context: bool
    keys: bool  # whether keys get gradients
    values: bool
    precision: str  # of products of float32
    wide: bool  # whether queries and keys in half precision are multiplied in float32


def forward(given: Attention, context: bool = False) -> tuple[Tensor, Tensor | None, Results]:
    r"""The step.

    Args:
        given: the attention, p and the residual.
        context: whether the attention output :math:`M V` of all queries, padded ones too, is wanted.

    Returns:
        :math:`\bar U` and :math:`M V` (or None), ``(b, h, n, d)``, and what :func:`backward` needs.
    """
    call = _Call(given, context=context)
    g, n, m, d = call.shape
    empty = given.p.new_empty
    out = torch.empty_like(given.query, memory_format=torch.contiguous_format)
    attended = torch.empty_like(out) if context else None
    results = Results(
        message=empty(g, n, d),
        log_total=empty(g, n),
        log_sum=empty(g, n),
        norm_q=empty(g, n),
        norm_v=empty(g, m),
        degree=call.room(),
    )
    inputs = call.inputs(given)
    for x, heads in call.parts(inputs):
        call.launch(kernels._normalise, call.row_blocks, heads, x, results)
        call.launch(kernels._degrees, call.column_blocks, heads, x, results)
        call.launch(kernels._messages, call.row_blocks, heads, x, results, out, attended)
    return out, attended, results


def backward(
    given: Attention,
    results: Results,
    grad_out: Tensor,
    grad_context: Tensor | None,
    keys: bool = True,
    values: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor, Tensor]:
    """The gradients.

    Args:
        given: as for :func:`forward`.
        results: what that returned; of a causal graph's ``degree`` nothing is read.
        grad_out, grad_context: gradients of the outputs, ``(b, h, n, d)``.
        keys, values: whether keys and values get gradients.

    Returns:
        Gradients of query, key (or None), value (or None), feature (or None), p and the residual.
    """
    call = _Call(given, context=grad_context is not None, keys=keys, values=values)
    g, n, m, d = call.shape
    empty = given.p.new_empty
    results = results._replace(degree=call.room() if given.causal else results.degree)
    up = Upstream(Array.of(grad_out), Array.of(grad_context), *(empty(g, n) for _ in range(6)))
    grads = Gradients(
        empty(g, n, d),
        None if given.feature is None else empty(g, n, d),
        None if given.metric is None else empty(g, n, d),
        empty(g, m, d) if keys else None,
        torch.empty_like(given.value, memory_format=torch.contiguous_format) if values else None,
        call.room(),
    )
    inputs = call.inputs(given)
    call.launch(kernels._prepare, call.row_blocks, g, inputs, results, up)
    for x, heads in call.parts(inputs):
        if given.causal:
            call.launch(kernels._degrees, call.column_blocks, heads, x, results)
        call.launch(kernels._to_values, call.column_blocks, heads, x, results, up, grads)
        call.launch(kernels._to_queries, call.row_blocks, heads, x, results, up, grads)
    if keys:
        call.launch(kernels._to_keys, call.column_blocks, g, inputs, results, up, grads)
    node = grads.query if grads.node is None else grads.node
    if grads.through is not None and given.metric is not None:
        node += (grads.through.view(given.query.shape) @ given.metric).view(node.shape)
    return (
        grads.query.view(given.query.shape).to(given.query.dtype),
        None if grads.key is None else grads.key.view(given.key.shape).to(given.key.dtype),
        grads.value,
        None if grads.node is None else grads.node.view(given.query.shape).to(given.query.dtype),
        up.p.sum(),
        up.residual.sum(),
    )


class _Call:
    """Arguments that the launches of a pass have in common."""

    def __init__(self, given: Attention, context: bool, keys: bool = False, values: bool = False):
        b, self.heads, n, d = given.query.shape
        self.shape = b * self.heads, n, given.key.shape[2], d
        self.blocks, precision, wide = _target(given.query, d)
        self.row_blocks = triton.cdiv(n, self.blocks.rows)
        self.column_blocks = triton.cdiv(self.shape[2], self.blocks.columns)
        mask = given.mask
        self.meta = Meta(
            rows=self.blocks.rows,
            columns=self.blocks.columns,
            width=max(16, triton.next_power_of_2(d)),
            mask=0 if mask is None else 1 if mask.dtype == torch.bool else 2,
            padded=given.query_mask is not None,
            triangular=given.triangular,
            causal=given.causal,
            mean=given.degree_scale is not None,
            past=given.past is not None,
            metric=given.metric is not None,
            feature=given.feature is not None,
            context=context,
            keys=keys,
            values=values,
            precision=precision,
            wide=wide,
        )
        carried = self.row_blocks * self.shape[2] if given.causal else 0
        self.part = min(self.shape[0], max(1, CARRIES // carried)) if carried else self.shape[0]
        self._room = (self.part, self.row_blocks) if carried else (self.part,)
        self._like = given.p
        self.options = dict(num_warps=self.blocks.warps, num_stages=self.blocks.stages, enable_fp_fusion=True)

    def room(self) -> Tensor:
        """For a degree per value, or per value and block of rows."""
        return self._like.new_empty(*self._room, self.shape[2])

    def inputs(self, given: Attention) -> Inputs:
        """The kernels' inputs."""
        query, value = Array.of(given.query), Array.of(given.value)
        node = query if given.feature is None else Array.of(given.feature)
        query_g, value_g = node, value
        if given.metric is not None:
            feature = given.query if given.feature is None else given.feature
            query_g, value_g = (Array.of(x.float() @ given.metric) for x in (feature, given.value))
        valid, past = given.query_mask, given.past
        return Inputs(
            query,
            Array.of(given.key),
            value,
            node,
            query_g,
            value_g,
            Shared.of(given.mask),
            Shared.of(given.degree_scale),
            None if valid is None else valid.contiguous().view(torch.uint8),
            None if past is None else past.contiguous(),
            given.p,
            given.residual,
            given.scale,
            self.heads,
            *self.shape[1:],
            0,
        )

    def parts(self, inputs: Inputs) -> Iterator[tuple[Inputs, int]]:
        """The inputs with the first of some heads, and how many these are."""
        for first in range(0, self.shape[0], self.part):
            yield inputs._replace(first=first), min(self.part, self.shape[0] - first)

    def launch(self, kernel: Any, blocks: int, heads: int, *arrays: Any) -> None:
        """Run a kernel on blocks of rows or of values of some heads."""
        with torch.cuda.device_of(self._like):  # Triton takes the current one
            kernel[(blocks, heads)](*arrays, meta=self.meta, **self.options)


def _target(query: Tensor, d: int) -> tuple[Blocks, str, bool]:
    """Blocks, the precision of products of float32, and whether products in half precision are replaced by
    them, on a tensor's device."""
    if not query.is_cuda:  # the interpreter, whose products in bfloat16 are wrong
        return INTERPRETED, "ieee", query.dtype == torch.bfloat16
    capability = torch.cuda.get_device_capability(query.device)
    fitting = (x for (least, most), x in BLOCKS.items() if capability >= least and d <= most)
    return next(fitting), "tf32x3", False
