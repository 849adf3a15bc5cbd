"""Models of full size with random weights, and the mini-BLIP's tokenizer: what training and answers cost does
not depend on the weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import BlipConfig, BlipForConditionalGeneration, PreTrainedTokenizerBase

from experiments.models import ModelFamily, load_family
from experiments.models.blip import BlipCaptioner
from experiments.models.mini_blip import WORDS
from experiments.models.mplug import MPlugForConditionalGeneration
from experiments.models.mplug.family import MPlug
from experiments.models.mplug.modeling import WORDS as MPLUG_WORDS
from experiments.models.mplug.modeling import sizes

HEAD = 64  # width of an attention head


def blip(side: int, layers: int, width: int, seed: int) -> BlipCaptioner:
    """BLIP-base.

    Args:
        side: of the pictures, in pixels.
        layers: of the image encoder and of the decoder.
        width: of both.
        seed: of the weights.
    """
    tokenizer = _tokenizer()
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


def mplug(side: int, layers: int, width: int, seed: int) -> MPlug:
    """mPLUG with ViT-B/16: half as many layers in the text encoder and in the fusion, whose second half
    begins with a joined one.

    Args:
        side, layers, width, seed: as for :func:`blip`.
    """
    tokenizer, half = _tokenizer(), max(2, layers // 2)
    shared = dict(hidden_size=width, intermediate_size=4 * width, num_attention_heads=width // HEAD)
    ends = dict(
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = sizes(
        shared | dict(num_hidden_layers=layers, image_size=side, patch_size=16),
        shared | ends | dict(vocab_size=MPLUG_WORDS),
        (half, half, layers),
        half // 2,
    )
    torch.manual_seed(seed)
    model = MPlugForConditionalGeneration(config).eval()
    model.set_attn_implementation("eager")  # as checkpoints are loaded
    return MPlug(model, MPlug.prepared(tokenizer, config))


def _tokenizer() -> PreTrainedTokenizerBase:
    return load_family().tokenizer


MODELS: dict[str, Callable[[int, int, int, int], ModelFamily]] = {"blip": blip, "mplug": mplug}
