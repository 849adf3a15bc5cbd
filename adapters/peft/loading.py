"""Loading saved graph adapters, and checking them, with errors that say what to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from attngraph.adapters.config import GraphAdapterConfig
from attngraph.adapters.peft.layer import ADAPTERS
from attngraph.adapters.peft.other_methods import switches
from attngraph.errors import UserError

REMEDY = "pass the folder that save_pretrained or a run of a graph adapter wrote"
RESTORE = "restore it, or train again"


def read_config(folder: str | Path) -> GraphAdapterConfig:
    """The configuration of a saved graph adapter.

    Args:
        folder: folder that ``save_pretrained`` wrote.

    Raises:
        UserError: no configuration in the folder, a damaged one, or that of another kind of adapter.
    """
    path = Path(folder) / CONFIG_NAME
    if not str(folder):
        raise UserError(f"the name of the adapter's folder is empty: {REMEDY}")
    if not os.path.isfile(path):  # False, too, for a name that no file can have
        raise UserError(f"{path}: no such file; {REMEDY}")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except UserError as error:  # a value that this version does not know
        raise UserError(f"{path}: {error}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is not a readable adapter configuration ({type(error).__name__}): train the adapter "
            "again or restore the file"
        ) from None
    if not isinstance(config, GraphAdapterConfig):
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise UserError(
            f"{folder} holds an adapter of type {kind}, not a graph adapter: load it with "
            "peft.PeftModel.from_pretrained"
        )
    return config


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: the file is missing or damaged, or holds numbers that are not finite.
    """
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}): {RESTORE}") from None
    for name, tensor in tensors.items():
        if not tensor.float().isfinite().all():
            raise UserError(f"{file} holds numbers that are not finite ({name}): {RESTORE}")
    return tensors


def check_saved_weights(model: nn.Module, adapter_name: str, state: dict[str, Tensor]) -> None:
    """Raise an error if weights are missing, unexpected or of the wrong shape.

    PEFT loads weights that fit and only warns about the others, so that adapters of another model would
    behave as if untrained.

    Args:
        model: the model with the adapters.
        adapter_name: the adapter's name.
        state: its saved weights, under the model's names.

    Raises:
        UserError: weights do not fit; the message names the first of each kind.
    """
    there = model.state_dict()
    own = [f".{part}.{adapter_name}." for part in (ADAPTERS, "modules_to_save")]
    wanted = [key for key in there if any(part in key for part in own)]
    missing = [key for key in wanted if key not in state]
    left = [key for key in state if key not in there]
    other = [key for key in wanted if key in state and state[key].shape != there[key].shape]
    found = [
        f"{len(keys)} {what} (first {keys[0]})"
        for keys, what in ((missing, "missing"), (left, "left over"), (other, "of another shape"))
        if keys
    ]
    if found:
        kind = type(getattr(model, "get_base_model", lambda: model)()).__name__
        raise UserError(
            f"the saved weights of the adapter do not fit this {kind}: {', '.join(found)}; use the base "
            "model that the adapter was trained for"
        )


def load_adapter(
    model: nn.Module,
    folder: str | Path,
    adapter_name: str = "default",
    is_trainable: bool = False,
    autocast_adapter_dtype: bool = True,
) -> PeftModel:
    """``PeftModel.from_pretrained`` for graph adapters, with errors that name the file.

    Both raise an error for weights that do not fit. After an error here the model computes the same as
    before, also with LoRA or other graph adapters in it.

    Args:
        model: the base model, of the kind that the adapter was trained for; changed in place.
        folder: folder that ``save_pretrained`` wrote.
        adapter_name: the adapter's name in the model.
        is_trainable: whether the adapter is to be trained further.
        autocast_adapter_dtype: see ``peft.get_peft_model``.

    Returns:
        The model with the adapter.

    Raises:
        UserError: no saved graph adapter in the folder, a damaged one, or one of another model.
    """
    config = read_config(folder)
    config.inference_mode = not is_trainable
    path = Path(folder) / SAFETENSORS_WEIGHTS_NAME
    if not path.is_file():
        raise UserError(f"{path}: no such file; {REMEDY}")
    read_tensors(path)  # PEFT reads them again, with other errors
    key_mapping = getattr(model, "_checkpoint_conversion_mapping", {})
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    others, put_back = bool(getattr(base, "peft_config", None)), switches(base)
    try:
        adapted = get_peft_model(model, config, adapter_name, autocast_adapter_dtype=autocast_adapter_dtype)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    try:
        adapted.load_adapter(
            str(folder),
            adapter_name,
            is_trainable=is_trainable,
            autocast_adapter_dtype=autocast_adapter_dtype,
            key_mapping=key_mapping,
        )
        return adapted
    except UserError as error:
        wrong = str(error)
    except KeyError as error:  # PEFT looks for modules to save by name
        wrong = (
            f"the saved weights of the adapter lack {error.args[0]}: use the base model that the adapter was "
            "trained for"
        )
    if others:  # which unload() would take out too
        tuner: Any = adapted.base_model
        tuner.delete_adapter(adapter_name)
        put_back()
    else:
        adapted.unload()
    raise UserError(f"{path}: {wrong}")
