"""mini-mPLUG: mPLUG in the sizes of mini-BLIP."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase

from experiments.models.mini_blip import grid_positions
from experiments.models.mplug.configuration import STRIDES, sizes
from experiments.models.mplug.modeling import MPlugForConditionalGeneration


def build_model(
    tokenizer: PreTrainedTokenizerBase,
    width: int = 128,
    vision_layers: int = 4,
    layers: tuple[int, int, int] = (2, 4, 4),
    heads: int = 4,
) -> MPlugForConditionalGeneration:
    """A freshly initialised mini-mPLUG for 64x64 images in patches of 8 (65 image states), without dropout.

    With the stride of mPLUG-base the last of four fusion layers is one attention over image and text.

    Args:
        tokenizer: from ``build_tokenizer``, with ``[CLS]`` as its start token; gives the vocabulary and the
            ids of the start and end tokens.
        width: hidden width of all parts; the feed-forward width is 4 times this.
        vision_layers: depth of the image encoder.
        layers: depth of text encoder, fusion and decoder.
        heads: attention heads in all parts.
    """
    shared = dict(hidden_size=width, intermediate_size=4 * width, num_attention_heads=heads)
    vision = shared | dict(
        num_hidden_layers=vision_layers, image_size=64, patch_size=8, attention_dropout=0.0
    )
    text = shared | dict(
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = sizes(vision, text, layers, STRIDES["base"])
    config._attn_implementation = "eager"
    model = MPlugForConditionalGeneration(config)
    with torch.no_grad():  # see grid_positions: from noise a model this small learns no left and right
        positions = model.vision_model.embeddings.position_embedding.weight
        positions[1:] = grid_positions(64 // 8, width)
    return model
