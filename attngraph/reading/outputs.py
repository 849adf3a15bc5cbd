r"""The output projection :math:`W_o` of an attention layer, and the metric it puts on each head's
features."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from attngraph.precision import widen

NAMES = """
    o_proj out_proj c_proj o dense proj projection out_lin Wo linear_out projection_layer output_projection
    output
""".split()


def find_output(attention: nn.Module, parent: nn.Module | None) -> tuple[str, nn.Module] | None:
    """Where :math:`W_o` is: a linear layer inside the attention module under one of the names in use, or
    beside it as ``output.dense`` (BERT's layout).

    Returns:
        its path from the attention module (``"o_proj"``) or from the parent (``"output.dense"``), and itself;
        None if there is no such layer, or not in plain form (quantised), or where channels attend to each
        other (Florence-2), so that it mixes nodes and not features.
    """
    if "ChannelAttention" in type(attention).__name__:
        return None
    for name in NAMES:
        module = _unwrapped(getattr(attention, name, None))
        if _plain(module):
            return name, module
    dense = _unwrapped(getattr(getattr(parent, "output", None), "dense", None))
    return ("output.dense", dense) if _plain(dense) else None


def _unwrapped(module: Any) -> Any:
    """The frozen layer inside those that PEFT puts round it."""
    while hasattr(module, "base_layer"):
        module = module.base_layer
    return module


def _plain(module: Any) -> TypeGuard[nn.Module]:
    if isinstance(module, nn.Linear):
        shape = (module.out_features, module.in_features)
        return module.weight.shape == shape and module.weight.is_floating_point()
    return isinstance(module, Conv1D)


def _weight(output: nn.Module) -> Tensor:
    weight = output.weight
    assert isinstance(weight, Tensor)
    return weight


def widths(output: nn.Module) -> tuple[int, int]:
    """How many features an output projection takes and gives."""
    rows, columns = _weight(output).shape
    return (rows, columns) if isinstance(output, Conv1D) else (columns, rows)


def matrix(output: nn.Module) -> Tensor:
    """:math:`W_o` as rows of features are multiplied by it from the right, ``(h·d, width)``."""
    return _weight(output) if isinstance(output, Conv1D) else _weight(output).T


def head_metric(output: nn.Module, heads: int) -> Tensor:
    r"""Gram matrices :math:`W_o^h {W_o^h}^\top`, ``(h, d, d)``, of an output projection; float32 in half
    precision, also under autocast, since distances are differences of its products."""
    weight = widen(_weight(output))
    if isinstance(output, Conv1D):
        weight = weight.T
    slices = weight.reshape(weight.shape[0], heads, -1).transpose(0, 1)  # h, out, d
    with torch.autocast(weight.device.type, enabled=False):
        return slices.transpose(-1, -2) @ slices


class Metric:
    """The metric of one projection, kept while its weight stays the same. Writes that go round PyTorch's
    version counter, as ``weight.data.copy_`` does, are not noticed. With a trainable projection and gradients
    switched on, it is part of the computation and made anew."""

    def __init__(self, output: nn.Module):
        self.output = output
        self._kept: tuple | None = None

    def __call__(self, heads: int) -> Tensor:
        """``(h, d, d)``; see :func:`head_metric`."""
        weight = _weight(self.output)
        if weight.is_inference() or (weight.requires_grad and torch.is_grad_enabled()):
            return head_metric(self.output, heads)
        key = (heads, weight.data_ptr(), weight._version, weight.dtype)
        if self._kept is None or self._kept[0] != key:
            with torch.inference_mode(False):  # so that it can be used in training later
                self._kept = key, head_metric(self.output, heads).detach()
        return self._kept[1]
