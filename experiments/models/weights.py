"""Loading a model's weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from attngraph.errors import UserError
from experiments.models.family import Checkpoint


def load_weights(
    kind: type[PreTrainedModel], checkpoint: Checkpoint, complete: bool = True, **options: Any
) -> PreTrainedModel:
    """A model in float32 and evaluation mode.

    Args:
        kind: its class.
        checkpoint: where its weights are.
        complete: refuse a checkpoint that lacks weights, which transformers would draw at random; but for
            poolers, which published image encoders often lack and writing does not need.
        options: of ``from_pretrained``.

    Raises:
        UserError: weights are missing or of another shape.
    """
    model, report = kind.from_pretrained(
        checkpoint.name,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
        **checkpoint.options,
        **options,
    )
    wrong = sorted(key for key in report["missing_keys"] if "pooler" not in key.split("."))
    wrong += [str(key) for key in report["mismatched_keys"]]
    if complete and wrong:
        raise UserError(
            f"--model {checkpoint.name}: {len(wrong)} weights missing or of another shape, first {wrong[0]}: "
            "give a checkpoint whose config.json and weights belong together"
        )
    return model.eval()
