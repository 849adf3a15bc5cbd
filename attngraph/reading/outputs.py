r"""The output projection :math:`W_o` of an attention layer, and its metric on each head's features.

A layer that does not store :math:`W_o` as its weight (quantised in any way) is run on the unit vectors.
Weights that accelerate has offloaded are loaded while they are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from inspect import signature
from itertools import chain
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from attngraph.errors import UserError
from attngraph.precision import widen

NAMES = """
    o_proj out_proj c_proj o dense proj projection out_lin Wo linear_out projection_layer output_projection
    output
""".split()

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""The precisions in which layers compute."""

NONLINEAR = 0.15
"""By which share a layer may differ from a linear one: activations in 4 bits differ by a tenth."""


def find_output(attention: nn.Module, parent: nn.Module | None) -> tuple[str, nn.Module] | None:
    """Find :math:`W_o`: a linear layer inside the attention module under one of the names in use, or
    ``output.dense`` of its parent (BERT's layout).

    Returns:
        the path from the attention module (``"o_proj"``) or from the parent (``"output.dense"``), and the
        layer; None if there is no such layer, or if channels attend to each other (Florence-2), so that it
        mixes nodes and not features.
    """
    if "ChannelAttention" in type(attention).__name__:
        return None
    for name in NAMES:
        module = _unwrapped(getattr(attention, name, None))
        if is_linear(module):
            return name, module
    dense = _unwrapped(getattr(getattr(parent, "output", None), "dense", None))
    return ("output.dense", dense) if is_linear(dense) else None


def _unwrapped(module: Any) -> Any:
    """The frozen layer inside the wrappers of PEFT."""
    while hasattr(module, "base_layer"):
        module = module.base_layer
    return module


def with_wrappers(module: Any) -> nn.Module:
    """An output projection with the wrappers of PEFT, or the frozen layer if one of them is of graph
    adapters."""
    inner = module
    while hasattr(inner, "base_layer"):
        if hasattr(inner, "gnn_adapter"):
            return _unwrapped(module)
        inner = inner.base_layer
    return module


def _run(output: nn.Module, rows: Tensor) -> Tensor:
    """Output for rows of features, without dropout in the wrappers of PEFT."""
    training = [module for module in output.modules() if module.training and module is not output]
    for module in training:
        module.training = False
    try:
        return output.forward(rows)
    finally:
        for module in training:
            module.training = True


def is_linear(module: Any) -> TypeGuard[nn.Module]:
    """Whether a module is an ``nn.Linear``, transformers' ``Conv1D``, or a quantised layer in the place of
    one."""
    if isinstance(module, (nn.Linear, Conv1D)):
        return True
    if not isinstance(module, nn.Module) or "Linear" not in type(module).__name__:
        return False
    sizes = (getattr(module, name, None) for name in ("in_features", "out_features"))
    given = list(signature(type(module).forward).parameters)  # I-BERT's layers take and give scales, too
    return all(isinstance(size, int) for size in sizes) and len(given) == 2


def widths(output: nn.Module) -> tuple[int, int]:
    """Numbers of input and output features of an output projection."""
    sizes: Any = output
    return (sizes.nx, sizes.nf) if isinstance(output, Conv1D) else (sizes.in_features, sizes.out_features)


def place(output: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device of a layer, and precision of an adapter on it: that of its weight, or float32 if that is not a
    precision in which layers compute (quantised weights)."""
    with _brought_in(output):
        weight = next(chain(output.parameters(), output.buffers()), torch.empty(0))
        return weight.device, weight.dtype if weight.dtype in FLOATS else torch.float32


@contextmanager
def _brought_in(output: nn.Module) -> Iterator[None]:
    """Weights that accelerate has offloaded (they are on ``meta``), where its hook brings them."""
    hook: Any = getattr(output, "_hf_hook", None)
    if hook is None or not any(parameter.is_meta for parameter in output.parameters()):
        yield
        return
    hook.pre_forward(output)
    try:
        yield
    finally:
        hook.post_forward(output, None)


def _plain(output: nn.Module) -> bool:
    """Whether the layer's weight is :math:`W_o` itself."""
    weight: Any = getattr(output, "weight", None)
    if type(weight) not in (Tensor, nn.Parameter) or not isinstance(output, (nn.Linear, Conv1D)):
        return False
    shape = widths(output) if isinstance(output, Conv1D) else widths(output)[::-1]
    return weight.dtype in FLOATS and weight.shape == shape


def matrix(output: nn.Module, like: Tensor | None = None) -> Tensor:
    """:math:`W_o` for multiplication of rows of features from the right, ``(h·d, width)``.

    Args:
        output: the output projection.
        like: example of its input, whose device and precision are used to measure :math:`W_o` if it is not
            the layer's weight.

    Raises:
        UserError: the layer does not run, or is not linear.
    """
    with _brought_in(output):
        if _plain(output):
            return _weight(output)
    row, _ = _example(output, like)
    unit = torch.eye(row.shape[1], dtype=row.dtype, device=row.device)
    with torch.autocast(row.device.type, enabled=False):
        found, expected = apply(output, unit), apply(output, row)
    if torch.dist(widen(row) @ found, expected) > NONLINEAR * expected.norm():
        raise UserError(
            f"the output projection ({type(output).__name__}) is not linear (its input may be clamped), so "
            "there is no W_o: exclude the layer (layers=...; for adapters exclude_modules=...)"
        )
    return found


def apply(output: nn.Module, rows: Tensor) -> Tensor:
    """Rows of features ``(..., h·d)`` times :math:`W_o`, without the bias; in float32 where the weight is not
    :math:`W_o`."""
    with _brought_in(output):
        if _plain(output):
            return rows @ _weight(output)
    return (widen(_run(output, rows)) - widen(_run(output, -rows))) / 2


def _weight(output: nn.Module) -> Tensor:
    weight: Any = output.weight
    return weight if isinstance(output, Conv1D) else weight.T


def _example(output: nn.Module, like: Tensor | None) -> tuple[Tensor, Tensor]:
    """A fixed row of test features, in a precision in which the layer computes, and the layer's output for
    it. Arguments as for :func:`matrix`."""
    device = place(output)[0] if like is None else like.device
    own = getattr(getattr(output, "weight", None), "dtype", None)
    example = torch.arange(widths(output)[0], device=device, dtype=torch.float32).cos()[None]
    failure: Exception | None = None
    for dtype in dict.fromkeys([own, None if like is None else like.dtype, *FLOATS[:3]]):
        if dtype in FLOATS:
            row = example.to(dtype)
            try:
                with torch.autocast(device.type, enabled=False):
                    return row, _run(output, row)
            except Exception as error:
                failure = failure or error
    raise UserError(
        f"the output projection ({type(output).__name__}) does not run ({failure}): move the model to a "
        "device on which it runs, or exclude the layer (layers=...; for adapters exclude_modules=...)"
    )


def head_metric(output: nn.Module, heads: int, like: Tensor | None = None) -> Tensor:
    r"""Gram matrices :math:`W_o^h {W_o^h}^\top`, ``(h, d, d)``, of an output projection; float32 in half
    precision, also under autocast, since distances are differences of its products.

    Args:
        output, like: as for :func:`matrix`.
        heads: how many.
    """
    slices = widen(matrix(output, like)).unflatten(0, (heads, -1))  # h, d, width
    with torch.autocast(slices.device.type, enabled=False):
        return slices @ slices.transpose(-1, -2)


class Metric:
    """The metric of one projection, cached as long as the projection's output for one row of test features
    does not change: so any change of its weights is noticed, including ``weight.data.copy_``.

    With a trainable projection and gradients enabled, it is part of the computation and not cached.

    A single query in evaluation (a decoding step with a cache) uses the cached metric if a plain weight has
    the same memory and the same version counter; a write that does not increase the counter is noticed at the
    next prompt. On an accelerator a plain weight is not compared at all, since that would synchronise with
    the device: there the metric is recomputed in training, for several queries, and for offloaded weights."""

    def __init__(self, output: nn.Module):
        self.output = output
        self._kept: tuple | None = None  # key, test row, its output, metric
        self._written: tuple | None = None  # memory and version of a plain weight that has this metric

    def __call__(self, heads: int, like: Tensor) -> Tensor:
        """``(h, d, d)`` for queries ``like``, ``(b, h, n, d)``; see :func:`head_metric`."""
        output = self.output
        if torch.is_grad_enabled():
            weights = (p for name, p in output.named_parameters() if name != "bias")
            if any(p.requires_grad for p in weights):
                return head_metric(output, heads, like)
        if self._kept is not None and like.shape[-2:-1] == (1,) and self._unwritten(heads, like):
            return self._kept[3]
        weight: Any = getattr(output, "weight", None)
        device: Any = getattr(weight, "device", None)
        kind = like.device.type
        key: tuple = heads, like.dtype, like.device, getattr(weight, "dtype", None), device
        plain = device is not None and _plain(output)
        remote, written = plain and device.type != "cpu", None
        if plain and not (weight.is_inference() or output.training or hasattr(output, "_hf_hook")):
            written = weight.data_ptr(), weight._version
        if self._kept is not None and self._kept[0] == key:
            _, row, before, metric = self._kept
            if not remote:
                mixed = torch.is_autocast_enabled(kind)
                with torch.autocast(kind, enabled=False) if mixed else nullcontext():
                    now = _run(output, row)
                if _same(now, before):
                    self._written = written
                    return metric
        if remote and written is None:
            return head_metric(output, heads, like)
        with torch.inference_mode(False), torch.no_grad():  # so that it can be used in training later
            row, made = _example(output, like)
            self._kept, self._written = (key, row, made, head_metric(output, heads, like)), written
        return self._kept[3]

    def _unwritten(self, heads: int, like: Tensor) -> bool:
        """Whether the metric is kept for such queries, of a plain weight that has the same memory and version
        still."""
        output, weight = self.output, self.output._parameters.get("weight")
        if self._written is None or weight is None or output.training or "_hf_hook" in vars(output):
            return False
        if weight.is_inference() or (weight.data_ptr(), weight._version) != self._written:
            return False
        return self._kept is not None and self._kept[0][:3] == (heads, like.dtype, like.device)


def _same(x: Tensor, y: Tensor) -> bool:
    return (x.dtype, x.device) == (y.dtype, y.device) and torch.equal(x, y)
