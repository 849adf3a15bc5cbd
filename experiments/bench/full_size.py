"""BLIP of full size with random weights, and the mini-BLIP's tokenizer: what training and answers cost does
not depend on the weights."""

from __future__ import annotations

import torch
from transformers import BlipConfig, BlipForConditionalGeneration

from experiments.models import load_family
from experiments.models.blip import BlipCaptioner
from experiments.models.full_size import WORDS

HEAD = 64  # width of an attention head


def blip(side: int, layers: int, width: int, seed: int) -> BlipCaptioner:
    """BLIP-base.

    Args:
        side: of the pictures, in pixels.
        layers: of the image encoder and of the decoder.
        width: of both.
        seed: of the weights.
    """
    tokenizer = load_family().tokenizer
    ends = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    ends |= dict.fromkeys(("eos_token_id", "sep_token_id"), tokenizer.sep_token_id)
    shared = dict(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD,
        projection_dim=width,
    )
    config = BlipConfig(
        text_config=shared | ends | dict(encoder_hidden_size=width, vocab_size=WORDS),
        vision_config=shared | dict(image_size=side, patch_size=16, initializer_range=0.02),
        projection_dim=width,
        image_text_hidden_size=width,
        attn_implementation="eager",
    )
    torch.manual_seed(seed)
    return BlipCaptioner(BlipForConditionalGeneration(config).eval(), tokenizer)
