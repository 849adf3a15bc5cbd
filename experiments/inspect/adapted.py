"""Graph adapters, saved by a table's run or by PEFT, put into a model to look at."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn

from adapters.adapter import GraphAdapter, read_adapter
from adapters.blip import attach, text_model
from adapters.peft.config import GraphAdapterConfig
from attngraph.errors import UserError

TABLE_FILE, PEFT_FILE = "adapter.safetensors", "adapter_config.json"


class Adapted(NamedTuple):
    """A model with adapters.

    Args:
        model: to run.
        adapters: ``{layer as attngraph.capture names it: adapter}``.
        disabled: a context in which they are switched off.
    """

    model: nn.Module
    adapters: dict[str, GraphAdapter]
    disabled: Callable[[], AbstractContextManager]


def put_in(model: nn.Module, path: Path, trained: bool = True, seed: int = 0) -> Adapted:
    """Put saved adapters into a model.

    Args:
        model: the frozen model that they were trained for; changed in place.
        path: a cell's folder of ``attngraph ablation``, its ``adapter.safetensors``, or a folder that PEFT saved.
        trained: False leaves them as a new adapter starts, with this seed.

    Raises:
        UserError: no such file, a damaged one, or adapters of another model or kind.
    """
    torch.manual_seed(seed)
    if (path / PEFT_FILE).exists():
        return _from_peft(model, path, trained)
    file = path / TABLE_FILE if path.is_dir() else path
    if not file.exists():
        raise UserError(
            f"--adapter {path}: neither {TABLE_FILE} (a table's run) nor {PEFT_FILE} (PEFT) is there"
        )
    config, state = read_adapter(file)
    try:
        adapters = attach(model, config)
    except UserError as error:
        raise UserError(
            f"--adapter {path} holds adapters of a BLIP captioner, and the model is a {type(model).__name__}: give the "
            "model that they were trained for (--model)"
        ) from error
    if trained:
        adapters.load_state_dict(state)
    text = text_model(model)
    prefix = next(name for name, module in model.named_modules() if module is text)
    layers = {f"{prefix}.{name}" if prefix else name: adapter for name, adapter in adapters.layers.items()}
    return Adapted(model, layers, adapters.disabled)


def _from_peft(model: nn.Module, path: Path, trained: bool) -> Adapted:
    try:
        config = PeftConfig.from_pretrained(str(path))
        if not isinstance(config, GraphAdapterConfig):
            raise UserError(f"--adapter {path} holds a {config.peft_type} adapter, not a graph adapter")
        whole = PeftModel.from_pretrained(model, str(path)) if trained else get_peft_model(model, config)
    except (OSError, ValueError, KeyError, RuntimeError, json.JSONDecodeError) as error:
        raise UserError(
            f"--adapter {path} cannot be put into this model ({str(error).splitlines()[0]}): give the model that "
            "it was trained for (--model)"
        ) from None
    return Adapted(whole.get_base_model().eval(), whole.base_model.layers(), whole.disable_adapter)
