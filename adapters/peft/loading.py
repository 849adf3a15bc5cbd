"""Loading saved graph adapters, with errors that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import nn

from adapters.peft.config import GraphAdapterConfig
from adapters.peft.layer import ADAPTERS
from attngraph.errors import UserError


def read_config(folder: str | Path) -> GraphAdapterConfig:
    """The configuration of a saved graph adapter.

    Args:
        folder: what ``save_pretrained`` wrote.

    Raises:
        UserError: no configuration in the folder, a damaged one, or that of another kind of adapter.
    """
    path = Path(folder) / CONFIG_NAME
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the folder that save_pretrained wrote")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except UserError as error:  # a value that this version does not know
        raise UserError(f"{path}: {error}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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


def load_adapter(
    model: nn.Module,
    folder: str | Path,
    adapter_name: str = "default",
    is_trainable: bool = False,
    autocast_adapter_dtype: bool = True,
) -> PeftModel:
    """``PeftModel.from_pretrained`` for graph adapters, which takes no weights that do not fit.

    PEFT only warns when weights are missing. Here the model computes what it did before after an error, also
    with LoRA or other graph adapters in it.

    Args:
        model: the base model, of the kind that the adapter was trained for; changed in place.
        folder: what ``save_pretrained`` wrote.
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
        raise UserError(f"{path}: no such file; give the folder that save_pretrained wrote")
    try:
        with safe_open(str(path), "pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a readable adapter file ({type(error).__name__}): train the adapter again or "
            "restore the file"
        ) from None
    key_mapping = getattr(model, "_checkpoint_conversion_mapping", {})
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    others = bool(getattr(base, "peft_config", None))
    adapted = get_peft_model(model, config, adapter_name, autocast_adapter_dtype=autocast_adapter_dtype)
    try:
        result = adapted.load_adapter(
            str(folder),
            adapter_name,
            is_trainable=is_trainable,
            autocast_adapter_dtype=autocast_adapter_dtype,
            key_mapping=key_mapping,
        )
        # PEFT reports keys of other adapters too, if they hold the letters of this one's name
        own = [f".{part}.{adapter_name}." for part in (ADAPTERS, "modules_to_save")]
        missing = [key for key in result.missing_keys if any(part in key for part in own)]
        wrong = [*missing, *result.unexpected_keys]
    except RuntimeError as error:  # shapes that differ
        wrong = [line.strip() for line in str(error).splitlines()[1:]]
    except KeyError as error:  # a module to save that the file lacks
        wrong = [str(error.args[0])]
    if wrong:
        if others:  # which unload() would take out too
            tuner: Any = adapted.base_model
            tuner.withdraw(adapter_name)
        else:
            adapted.unload()
        raise UserError(
            f"{path}: the weights do not fit this model ({wrong[0]}, and {len(wrong) - 1} more differ): use "
            "the base model that the adapter was trained for"
        )
    return adapted
