"""The tensors of a file that ``torch.save`` wrote, without running anything that it may hold."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attngraph.errors import UserError
from experiments.errors import first_line

PLACES = ("model", "module", "state_dict")  # under which training programs keep the weights


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint by their names.

    They lie under one of ``PLACES``, beside an optimiser's state and the like, or are the whole of the file.
    Only tensors and plain values are unpickled (``weights_only=True``); a file in PyTorch's present format is
    mapped into memory, so that what nobody uses is never read from the disk.

    Args:
        file: which.

    Raises:
        UserError: it cannot be read, is no such file, is cut short, or holds other objects.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}: check the path and your rights") from None
    except Exception as error:  # whatever is wrong with the file; pickles fail in many ways
        if other := re.search(r"(?:GLOBAL|class|function) ([\w.]+\.[\w.]+)", str(error)):
            raise UserError(
                f"{file}: it holds Python objects other than tensors ({other[1]}), which reading would run: "
                'ask its author for its tensors alone, as torch.save({"model": model.state_dict()}, FILE) '
                "writes them"
            ) from None
        raise UserError(
            f"{file}: no PyTorch checkpoint, or one that is damaged or cut short ({_brief(error)}): download "
            "it again"
        ) from None
    return _weights(content, file)


def _weights(content: Any, file: Path) -> dict[str, Tensor]:
    inner = (
        next((content[place] for place in PLACES if place in content), content) if _is_dict(content) else None
    )
    if not _is_dict(inner) or not inner:
        raise UserError(f"{file}: it holds no weights by their names, as a model's state_dict does")
    wrong = [name for name, value in inner.items() if not isinstance(value, Tensor)]
    if wrong:
        raise UserError(
            f"{file}: {wrong[0]} is no tensor ({type(inner[wrong[0]]).__name__}): give a checkpoint that "
            f"holds a model's state_dict, as the whole or under {', '.join(PLACES)}"
        )
    for name, value in inner.items():
        if why := _unusable(value):
            raise UserError(
                f"{file}: {name} {why}: give a checkpoint whose weights are saved in full, as plain numbers"
            )
    return dict(inner)


def _unusable(tensor: Tensor) -> str | None:
    """Why a tensor's numbers cannot be read as they are; None if they can. What a sparse one is used for is
    told later."""
    if tensor.is_meta:
        return "has a shape but no numbers (a meta tensor)"
    if tensor.is_quantized:
        return f"is quantised ({tensor.dtype})"
    if tensor.layout != torch.strided:
        return None
    size, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if size > held:
        return f"of shape {tuple(tensor.shape)} repeats {held:,} bytes of numbers (an expanded tensor)"
    return None


def _is_dict(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(name, str) for name in content)


def _brief(error: Exception) -> str:
    """The beginning of an error's message; PyTorch's go on with advice to load the file unsafely."""
    line = first_line(error).replace("WeightsUnpickler error: ", "")
    return line if len(line) <= 80 else type(error).__name__
