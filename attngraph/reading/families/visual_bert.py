"""VisualBERT's attention."""

from __future__ import annotations

from torch import Tensor
from transformers.models.visual_bert.modeling_visual_bert import VisualBertModel, VisualBertSelfAttention

from attngraph.reading.families.mixed import image_after_words, note_words, self_attention


class GraphVisualBertSelfAttention(VisualBertSelfAttention):
    """Self-attention over the words and then the regions of the image."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, ...]:
        return self_attention(
            self, hidden_states, attention_mask, output_attentions, image_after_words(self, hidden_states)
        )


def _note_words(model: VisualBertModel, args: tuple, kwargs: dict) -> None:
    last = [model.additional_layer] if model.bypass_transformer else []
    note_words((layer.attention.self for layer in [*model.encoder.layer, *last]), args, kwargs)


CLASSES = {VisualBertSelfAttention: GraphVisualBertSelfAttention}
HOOKS = {VisualBertModel: _note_words}
