r"""mPLUG's fusion of image and text.

With image states :math:`V` and text states :math:`T`, a layer of the first kind computes (each step with its
residual and layer norm)

.. math:: T \leftarrow \mathrm{FFN}(\mathrm{cross}(\mathrm{self}(T),\, V)),

and leaves the image as it is. Every ``stride`` layers there is one of the second kind,

.. math:: [V'; T'] = \mathrm{FFN}(\mathrm{self}([V; T])), \qquad V \leftarrow V + V', \quad T \leftarrow T',

one self-attention over both in one sequence.
Source: ``FusionLayer`` and ``FusionEncoder`` in models/modeling_mplug.py of github.com/X-PLUG/mPLUG, which
builds more layers and parts of them than it runs; here are those that it runs.

Axes: b examples, N image nodes, n words, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.bert.modeling_bert import (
    BertAttention,
    BertIntermediate,
    BertOutput,
    BertPreTrainedModel,
)
from transformers.utils import ModelOutput

from experiments.models.mplug.configuration import MPlugConfig


@dataclass
class Fused(ModelOutput):
    """What the decoder looks at.

    Args:
        last_hidden_state: ``(b, N + n, D)``, the image's states and then the text's.
        attention_mask: ``(b, N + n)``, 0 at padding.
        image_nodes: bool ``(b, N + n)``, which of them are the image's.
    """

    last_hidden_state: Tensor | None = None
    attention_mask: Tensor | None = None
    image_nodes: Tensor | None = None


class FusionLayer(GradientCheckpointingLayer):
    """A layer in which the text attends to itself and then to the image."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.attention = BertAttention(config)
        self.crossattention = BertAttention(config, is_cross_attention=True)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)

    def forward(self, text: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:
        """Text states ``(b, n, D)`` after they have looked at image states ``(b, N, D)``; ``mask`` is what
        transformers makes of the text's padding."""
        states, _ = self.attention(text, mask, modalities=("text", "text"))
        states, _ = self.crossattention(states, encoder_hidden_states=image, modalities=("text", "image"))
        return self.output(self.intermediate(states), states)


class JoinedLayer(GradientCheckpointingLayer):
    """A layer in which image and text attend to each other in one sequence."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.attention = BertAttention(config)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)

    def forward(self, states: Tensor, mask: Tensor | None, image_nodes: Tensor) -> Tensor:
        """States ``(b, N + n, D)`` to the same; ``mask`` as in :class:`FusionLayer`."""
        states, _ = self.attention(states, mask, modalities=(image_nodes, image_nodes))
        return self.output(self.intermediate(states), states)


class MPlugFusionModel(BertPreTrainedModel):
    """All layers of the fusion.

    Args:
        config: the whole model's.
    """

    config_class = BertConfig

    def __init__(self, config: MPlugConfig):
        own = cast(BertConfig, config.fuser_config)
        super().__init__(own)
        kinds = [
            JoinedLayer if config.joins(layer) else FusionLayer for layer in range(own.num_hidden_layers)
        ]
        self.layer = nn.ModuleList([kind(own) for kind in kinds])
        self.gradient_checkpointing = False
        self.post_init()

    def forward(self, text: Tensor, image: Tensor, text_mask: Tensor) -> Fused:
        """Image and text after they have seen each other.

        Args:
            text: ``(b, n, D)``, from the text encoder.
            image: ``(b, N, D)``, from the image encoder.
            text_mask: ``(b, n)``, 0 at padding.
        """
        count = image.shape[1]
        whole_mask = torch.cat([text_mask.new_ones(image.shape[:2]), text_mask], 1)
        nodes = (torch.arange(whole_mask.shape[1], device=image.device) < count).expand_as(whole_mask)
        mask = create_bidirectional_mask(self.config, text, text_mask)
        for layer in self.layer:
            if isinstance(layer, JoinedLayer):
                both = torch.cat([image, text], 1)
                both = layer(both, create_bidirectional_mask(self.config, both, whole_mask), nodes)
                image, text = image + both[:, :count], both[:, count:]
            else:
                text = layer(text, image, mask)
        return Fused(torch.cat([image, text], 1), whole_mask, nodes)
