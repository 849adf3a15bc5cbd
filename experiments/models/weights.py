"""Loading a model's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from attngraph.errors import UserError
from experiments.models.family import Checkpoint

OLD_BUFFERS = {"inv_freq", "masked_bias", "position_ids"}  # former versions of transformers saved them


def load_weights(
    kind: type[PreTrainedModel], checkpoint: Checkpoint, complete: bool = True, **options: Any
) -> PreTrainedModel:
    """A model in float32 and evaluation mode.

    Args:
        kind: its class.
        checkpoint: where its weights are.
        complete: refuse a checkpoint that lacks the weights of a head, too.
        options: of ``from_pretrained``.

    Raises:
        UserError: the weights are not those of the configuration; see :func:`misfits`.
    """
    model, report = kind.from_pretrained(
        checkpoint.name,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
        **checkpoint.options,
        **options,
    )
    wrong = misfits(model, report, complete)
    if wrong:
        raise UserError(
            f"--model {checkpoint.name}: {wrong}: give a checkpoint whose config.json and weights belong "
            "together"
        )
    return model.eval()


def misfits(model: PreTrainedModel, report: dict[str, Any], complete: bool = True) -> str:
    """In which weights a file and a model differ, in words; empty where they belong together.

    Weights that the file lacks would be drawn at random, and layers that only the file has would be left out,
    both without an error. What transformers itself ignores counts neither way (tied weights, buffers), nor do
    poolers, which published image encoders often lack and attention does not need. Weights of the file
    outside of the model's numbered layers are another task's head. Unless the model is to be ``complete``,
    weights outside of the base model, such as a head of its own, may be missing.

    Args:
        model: as it was loaded.
        report: transformers' loading information.
        complete: see above.
    """
    base = "" if complete or model.base_model is model else f"{model.base_model_prefix}."
    missing = sorted(
        key for key in report["missing_keys"] if key.startswith(base) and "pooler" not in key.split(".")
    )
    missing += [str(key) for key in report["mismatched_keys"]]
    if missing:
        return f"{len(missing)} weights missing or of another shape, first {missing[0]}"
    modules = model.named_modules()
    lists = {name for name, module in modules if isinstance(module, (nn.ModuleList, nn.Sequential))}
    unused = [
        key
        for key in sorted(report["unexpected_keys"])
        if key.rpartition(".")[2] not in OLD_BUFFERS
        and any(_in_layer(name, lists) for name in _names(model, key))
    ]
    if unused:
        return f"{len(unused)} weights of layers that config.json does not describe, first {unused[0]}"
    return ""


def _names(model: PreTrainedModel, key: str) -> tuple[str, str, str]:
    """The names that a weight of the file may go by in the model: a base model and one with a head load each
    other's files."""
    prefix = f"{model.base_model_prefix}."
    return key, key.removeprefix(prefix), prefix + key


def _in_layer(name: str, lists: set[str]) -> bool:
    """Whether a weight lies in a numbered layer of one of some lists of modules."""
    parts = name.split(".")
    return any(part.isdigit() and ".".join(parts[:k]) in lists for k, part in enumerate(parts))
