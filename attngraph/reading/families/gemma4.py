"""Gemma 4's language model, whose last layers use keys and values of earlier ones."""

from __future__ import annotations

from torch import nn
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextModel
from transformers.models.gemma4_unified.modeling_gemma4_unified import Gemma4UnifiedTextModel


def _keep_all(model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Run the last layers on all words of a prompt: ``generate`` asks for the last one only, and the degrees
    that the others leave on the values would be missing."""
    return args, kwargs | {"logits_to_keep": 0}


CLASSES: dict[type, type] = {}
HOOKS = {Gemma4TextModel: _keep_all, Gemma4UnifiedTextModel: _keep_all}
