"""ViLT's attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.vilt.modeling_vilt import ViltModel, ViltSelfAttention

from attngraph.reading.families.mixed import image_after_words, note_words, self_attention


class GraphViltSelfAttention(ViltSelfAttention):
    """Self-attention over the words and then the patches."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, ...]:
        return self_attention(
            self, hidden_states, attention_mask, output_attentions, image_after_words(self, hidden_states)
        )


def _note_words(model: ViltModel, args: tuple, kwargs: dict) -> None:
    layers: Any = model.encoder.layer
    note_words((layer.attention.attention for layer in layers), args, kwargs)


CLASSES = {ViltSelfAttention: GraphViltSelfAttention}
HOOKS = {ViltModel: _note_words}
