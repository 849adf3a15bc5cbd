"""Saved weights of adapters: read without pickle, and brought into the current form."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from attngraph.adapters.scalar import SPEED
from attngraph.errors import UserError

REMEDY = "restore it, or train again"


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: the file is missing or damaged, or holds numbers that are not finite.
    """
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}): {REMEDY}") from None
    for name, tensor in tensors.items():
        if not tensor.float().isfinite().all():
            raise UserError(f"{file} holds numbers that are not finite ({name}): {REMEDY}")
    return tensors


def upgraded(saved: dict[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Saved weights in the form of now. Single numbers used to be saved by their values, without dimensions.

    Args:
        saved: weights by name.
        names: those that the weights have now.
    """
    saved = dict(saved)
    for name in names:
        before = name.removesuffix(".stored")
        if before != name and before in saved:
            saved[name] = saved.pop(before).reshape(1) / SPEED
    return saved
