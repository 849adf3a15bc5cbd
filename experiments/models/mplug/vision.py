"""mPLUG's image encoder: CLIP's, whose last layer norm is applied to all states and not only to the class
token's."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import CLIPVisionConfig
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.clip.modeling_clip import CLIPEncoder, CLIPPreTrainedModel, CLIPVisionEmbeddings


class MPlugVisionModel(CLIPPreTrainedModel):
    """Pixels to states ``(b, 1 + patches, width)``, the class token's first.

    Args:
        config: the image encoder's.
        width: of the texts. Where it is another, states are brought to it by a linear layer and a norm.
        dropout: of these states in training.
    """

    config_class = CLIPVisionConfig
    main_input_name = "pixel_values"

    def __init__(self, config: CLIPVisionConfig, width: int | None = None, dropout: float = 0.0):
        super().__init__(config)
        own = config.hidden_size
        self.embeddings = CLIPVisionEmbeddings(config)
        self.pre_layernorm = nn.LayerNorm(own, eps=config.layer_norm_eps)
        self.encoder = CLIPEncoder(config)
        self.post_layernorm = nn.LayerNorm(own, eps=config.layer_norm_eps)
        self.projection = None if width in (None, own) else Projection(own, width, dropout)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embedding

    def forward(self, pixel_values: Tensor, **kwargs) -> BaseModelOutput:
        """States of pixels ``(b, 3, side, side)``."""
        states = self.pre_layernorm(self.embeddings(pixel_values))
        states = self.post_layernorm(self.encoder(inputs_embeds=states, **kwargs).last_hidden_state)
        return BaseModelOutput(
            last_hidden_state=states if self.projection is None else self.projection(states)
        )


class Projection(nn.Module):
    """States of the image encoder's width as the texts take them.

    Args:
        inputs, outputs: widths.
        dropout: in training.
    """

    def __init__(self, inputs: int, outputs: int, dropout: float):
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)
        self.norm = nn.LayerNorm(outputs, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """``(b, n, inputs)`` to ``(b, n, outputs)``."""
        return self.dropout(self.norm(self.dense(states)))
