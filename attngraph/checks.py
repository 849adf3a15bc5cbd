"""Checks of what graphs and scores are made of. Each raises :class:`ValueError` and names the argument."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from attngraph.degrees import PastDegree
from attngraph.functorch import transformed

KINDS = ("self", "cross")
MODALITIES = ("text", "image")
Checked = TypeVar("Checked")


def check_nodes(query: Tensor, value: Tensor) -> tuple[int, int, int, int, int]:
    """Query features ``(b, h, n, d)`` and value features ``(b, h, m, d)``.

    Returns:
        ``(b, h, n, m, d)``.
    """
    if query.dim() != 4:
        raise ValueError(f"query must have shape (batch, heads, queries, features), got {tuple(query.shape)}")
    b, h, n, d = query.shape
    if d == 0:
        raise ValueError("query must have at least one feature, got none")
    check_numbers("query", query)
    check_numbers("value", value)
    if value.dim() != 4 or value.shape[:2] != (b, h) or value.shape[3] != d:
        raise ValueError(
            f"value must have shape ({b}, {h}, values, {d}), like query, got {tuple(value.shape)}"
        )
    return b, h, n, value.shape[2], d


def check_shape(name: str, tensor: Any, *shapes: tuple[int, ...], like: str = "") -> None:
    """A tensor of one of some shapes, or None.

    Args:
        like: what the shape comes from, for the message.
    """
    if tensor is not None and tuple(tensor.shape) not in shapes:
        wanted = " or ".join(map(str, shapes)) + (f", like {like}," if like else ",")
        raise ValueError(f"{name} must have shape {wanted} got {tuple(tensor.shape)}")


def check_numbers(name: str, tensor: Tensor | None) -> None:
    """A tensor of floating-point numbers, or None."""
    if tensor is not None and not tensor.is_floating_point():
        raise ValueError(
            f"{name} must hold floating-point numbers, got {tensor.dtype}: convert it with .float()"
        )


def check_weight(weight: Tensor, shape: tuple[int, ...]) -> None:
    """Floating-point weights of a shape, none of them negative.

    Weights that a model computed, or that are not in the processor's memory, are not looked at: what has a
    gradient comes from a softmax, and looking at what an accelerator computes would wait for it.
    """
    check_shape("weight", weight, shape)
    check_numbers("weight", weight)
    if torch.compiler.is_compiling() or transformed() or weight.device.type != "cpu":
        return
    if weight.grad_fn is None and (weight < 0).any():
        raise ValueError(
            f"weight must not be negative, got {float(weight.min()):g}: clamp the weights, or take their "
            "absolute values"
        )


def check_no_nan(name: str, tensor: Tensor) -> None:
    """Check a graph that was made by hand or read from a file for NaN. (Graphs of a running model are not
    checked, since the model continues with them.)"""
    if tensor.isnan().any():
        raise ValueError(f"{name} must not hold NaN: find its source, or exclude those nodes")


def check_mask(name: str, mask: Tensor | None, *shapes: tuple[int, ...], true: str = "valid") -> None:
    """A bool mask of one of some shapes, or None. ``true`` says what True stands for."""
    check_shape(name, mask, *shapes)
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"{name} must be a bool tensor (True = {true}), got {mask.dtype}")


def check_past_degree(past_degree: PastDegree | None, causal: bool, b: int, h: int, m: int) -> None:
    """Degrees that earlier queries left, on the values of a causal graph."""
    if past_degree is None:
        return
    if not causal:
        raise ValueError("past_degree belongs to causal graphs: pass causal=True")
    check_shape("past_degree.total", past_degree.total, (b, h, m))
    check_shape("past_degree.queries", past_degree.queries, (b,))


def check_span(span: Tensor | None, causal: bool, b: int, n: int) -> None:
    """The queries that count in the degrees that each query of a causal graph sees."""
    if span is None:
        return
    if not causal:
        raise ValueError("span belongs to causal graphs: pass causal=True")
    check_shape("span", span, (b, n, 2))
    if span.dtype != torch.long:
        raise ValueError(f"span must hold integers (torch.int64), got {span.dtype}")
    first, last = span.unbind(-1)
    query = torch.arange(n, device=span.device)
    if not ((first >= -1) & (first <= query) & (query <= last) & (last < n)).all():
        raise ValueError(
            f"span must hold the first (at least -1) and the last (at most {n - 1}) query of an interval "
            "that contains the query itself"
        )


def check_kind(kind: str | None) -> None:
    """The kind of an attention layer."""
    if kind not in (None, *KINDS):
        raise ValueError(f"kind must be one of {', '.join(KINDS)} or None, got {kind!r}")


def check_modality(name: str, modality: str | Tensor | None, b: int, nodes: int) -> None:
    """The modality of all nodes of one side, or a bool mask ``(b, nodes)`` of the image nodes among them."""
    if isinstance(modality, Tensor):
        if modality.dtype != torch.bool or modality.shape != (b, nodes):
            raise ValueError(
                f"{name} must be a bool tensor of shape ({b}, {nodes}) (True = image), got "
                f"{modality.dtype} {tuple(modality.shape)}"
            )
    elif modality not in (None, *MODALITIES):
        raise ValueError(
            f"{name} must be one of {', '.join(MODALITIES)}, a bool tensor or None, got {modality!r}"
        )


def unchecked(checked: Checked, **changes: Any) -> Checked:
    """A copy of a frozen dataclass with other fields, which are known to fit and are not checked again."""
    copied = object.__new__(type(checked))
    vars(copied).update(vars(checked), **changes)
    return copied
