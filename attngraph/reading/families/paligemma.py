"""PaliGemma's text attention: a prefix that sees itself, and then words in order."""

from __future__ import annotations

from typing import Any

from transformers.models.paligemma.modeling_paligemma import PaliGemmaModel

from attngraph.reading.hub import find_hub


def _note_order(model: PaliGemmaModel, args: tuple, kwargs: dict) -> None:
    """Note that the text's queries are ordered in time: its attention modules say that they are not, and the
    mask of a prefix alone does not tell that words will follow."""
    layers: Any = model.language_model.layers
    for layer in layers:
        hub = find_hub(layer.self_attn)
        if hub is not None:
            hub.notes["is_causal"] = True


CLASSES: dict[type, type] = {}
HOOKS = {PaliGemmaModel: _note_order}
