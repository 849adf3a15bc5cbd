"""Saved weights of adapters, read without pickle."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

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
