"""Saved graph adapters, put into a model to look at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from peft.utils import CONFIG_NAME

from adapters.adapter import GraphAdapter
from adapters.peft.loading import load_adapter, read_config
from attngraph.errors import UserError
from experiments.errors import first_line
from experiments.models.family import ModelFamily

FORMER_FILE = "adapter.safetensors"  # of tables that were trained before adapters went in through PEFT


def put_in(family: ModelFamily, path: Path, trained: bool = True, seed: int = 0) -> dict[str, GraphAdapter]:
    """Put saved adapters into a model.

    Args:
        family: the frozen model that they were trained for; its model is changed in place, and its
            ``unadapted`` becomes the context in which the adapters are off.
        path: a folder that PEFT saved, or a cell's folder of ``attngraph ablation``, which is one too.
        trained: False leaves them as a new adapter starts, with this seed.
        seed: of a new adapter's weights.

    Returns:
        ``{layer as attngraph.capture names it: adapter}``.

    Raises:
        UserError: no such folder, a damaged one, or adapters of another model or kind.
    """
    _check_folder(path)
    try:
        adapted = load_adapter(family.model, path)
        if not trained:  # the same ones as new, once it is known that they fit
            base: Any = adapted.unload()
            torch.manual_seed(seed)
            adapted = get_peft_model(base, read_config(path))
    except UserError as error:
        place = "" if str(error).startswith(str(path)) else f"{path}: "
        raise UserError(f"--adapter {place}{error}") from None
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"--adapter {path} cannot be put into this model ({first_line(error)}): give the model that it "
            "was trained for (--model)"
        ) from None
    family.model = adapted.get_base_model().eval()
    family.unadapted = adapted.disable_adapter
    return adapted.base_model.layers()


def _check_folder(path: Path) -> None:
    if os.path.exists(path / CONFIG_NAME):  # False, too, for a name that no file can have
        return
    if path.name == FORMER_FILE or os.path.exists(path / FORMER_FILE):
        raise UserError(
            f"--adapter {path}: {FORMER_FILE} is of a format that is no longer read: train the adapter again "
            "(attngraph ablation)"
        )
    if os.path.isfile(path):
        raise UserError(f"--adapter {path} is a file: give the folder that holds {CONFIG_NAME}")
    raise UserError(
        f"--adapter {path}: no {CONFIG_NAME} there; give a folder that PEFT saved, or a cell's folder of "
        "`attngraph ablation`"
    )
