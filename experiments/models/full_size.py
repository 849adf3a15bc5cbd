"""BLIP at full size without weights, to count and to plan with."""

from __future__ import annotations

import torch
from transformers import BlipConfig, BlipForConditionalGeneration, PreTrainedTokenizerBase

from experiments.models.blip import BlipCaptioner

WORDS = 30_524  # BERT's, [DEC] and [ENC]


def blip_base(side: int = 224) -> BlipConfig:
    """The sizes of BLIP-base (ViT-B/16, a text decoder of 12 layers), of which BLIP CapFilt-L is one.

    Args:
        side: of the picture, in pixels.
    """
    layers = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    return BlipConfig(
        text_config=layers | dict(encoder_hidden_size=768, projection_dim=768, vocab_size=WORDS),
        vision_config=layers | dict(image_size=side, patch_size=16),
    )


def blip_base_without_weights(side: int = 224) -> BlipCaptioner:
    """A captioner of that size whose parameters have shapes and no values: its parameters can be counted, and
    it takes no memory. It has no tokenizer, and answers nothing.
    """
    with torch.device("meta"):
        model = BlipForConditionalGeneration(blip_base(side))
    family = BlipCaptioner(model.eval(), PreTrainedTokenizerBase())
    family.title = "BLIP-base"
    return family
