"""FLAVA's attention, in its text, image and multimodal models."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.flava.modeling_flava import FlavaModel, FlavaSelfAttention

from attngraph.reading.families.mixed import image_before_words, note_words, self_attention


class GraphFlavaSelfAttention(FlavaSelfAttention):
    """Self-attention; in the multimodal model over a [CLS] node and the image, and then the words."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, output_attentions: bool = False
    ) -> tuple:
        return self_attention(
            self, hidden_states, attention_mask, output_attentions, image_before_words(self, hidden_states)
        )


def _note_words(model: FlavaModel, args: tuple, kwargs: dict) -> None:
    layers: Any = model.multimodal_model.encoder.layer
    note_words((layer.attention.attention for layer in layers), args, kwargs)


CLASSES = {FlavaSelfAttention: GraphFlavaSelfAttention}
HOOKS = {FlavaModel: _note_words}
