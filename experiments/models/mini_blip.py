"""Sizes of BLIP's captioner (ViT encoder, text decoder with cross-attention): the mini-BLIP's, and those of
BLIP-base, to count and to plan with."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import BlipConfig, BlipForConditionalGeneration, PreTrainedTokenizerBase

from experiments.base.shipped import CHECKPOINTS, DEFAULT

CHECKPOINT = CHECKPOINTS / DEFAULT
DESCRIBE = "what does the image describe ?"  # the prompt of captions in pre-training
WORDS = 30_524  # of BLIP: BERT's, [DEC] and [ENC]


def build_model(
    tokenizer: PreTrainedTokenizerBase,
    width: int = 128,
    vision_layers: int = 4,
    text_layers: int = 4,
    heads: int = 4,
) -> BlipForConditionalGeneration:
    """A freshly initialised mini-BLIP for 64x64 images in patches of 8 (65 image states).

    Args:
        tokenizer: from ``build_tokenizer``; gives the vocabulary and the ids of the start and end tokens.
        width: hidden width of both towers; the feed-forward width is 4 times this.
        vision_layers, text_layers: depth of the image encoder and of the text decoder.
        heads: attention heads in both towers.
    """
    end = tokenizer.sep_token_id
    shared = dict(
        hidden_size=width, intermediate_size=4 * width, num_attention_heads=heads, projection_dim=width
    )
    text = dict(
        shared,
        encoder_hidden_size=width,
        num_hidden_layers=text_layers,
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end,
        sep_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
    )
    # initializer_range: BLIP's default of 1e-10 is for weights that are loaded; nothing is learnt from it.
    vision = dict(
        shared,
        num_hidden_layers=vision_layers,
        image_size=64,
        patch_size=8,
        initializer_range=0.02,
    )
    config = BlipConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=width,
        image_text_hidden_size=width,
        attn_implementation="eager",
    )
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():
        positions = model.vision_model.embeddings.position_embedding
        positions[0, 1:] = grid_positions(vision["image_size"] // vision["patch_size"], width)
    return model


def grid_positions(side: int, width: int) -> Tensor:
    """Sines and cosines of a patch's row and column: what the position embeddings start from.

    From BLIP's own start (noise of 0.02) a model this small never learnt left from right: its patch
    embeddings outgrow the positions before any text rewards them.

    Row ``r`` and column ``c`` each give ``width / 4`` sines and cosines, of ``r / 10000^(4k / width)``
    for ``k`` in ``0 .. width / 4 - 1`` (Vaswani et al. 2017, for two dimensions).

    Args:
        side: patches along a side of the image.
        width: hidden width, a multiple of 4.

    Returns:
        float32 tensor ``(side * side, width)``, in the order of the patches (row by row).
    """
    rates = 10000.0 ** -(torch.arange(width // 4) * 4 / width)
    angles = torch.arange(side)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    rows, columns = waves.repeat_interleave(side, 0), waves.repeat(side, 1)
    return torch.cat([rows, columns], dim=1)


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
