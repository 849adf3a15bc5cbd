"""Shared fixtures: a BLIP text decoder and captioner small enough to run in milliseconds, with weights far
from zero.
"""

import gc

import pytest
import torch
from transformers import BlipConfig, BlipForConditionalGeneration, BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

WIDTH, IMAGE_WIDTH, VOCABULARY = 16, 12, 41
PAD, START, END = 0, 1, 2


def pytest_collection_finish():
    """The garbage collector looks no more at what was imported: a tenth of the tests' time."""
    gc.collect()
    gc.freeze()


def text_config(**changes) -> dict:
    return (
        dict(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            encoder_hidden_size=IMAGE_WIDTH,
            intermediate_size=24,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=PAD,
            bos_token_id=START,
            eos_token_id=END,
            sep_token_id=END,
            is_decoder=True,
            attn_implementation="eager",
        )
        | changes
    )


def far_from_zero(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Every weight and bias random and large, so that no term of any formula can hide and every token
    matters.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            if "LayerNorm.weight" in name or "layer_norm.weight" in name:
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.3 * noise)
            elif "embedding" in name:
                parameter.copy_(noise)
            else:
                parameter.copy_(1.5 * noise / parameter.shape[1] ** 0.5)
    return model.eval()


@pytest.fixture
def make_decoder():
    """``make_decoder(seed, **text configuration)``: a ``BlipTextLMHeadModel`` with two layers of two
    heads.
    """
    return lambda seed=0, **changes: far_from_zero(
        BlipTextLMHeadModel(BlipTextConfig(**text_config(**changes))), seed
    )


@pytest.fixture
def make_captioner():
    """``make_captioner(seed)``: a ``BlipForConditionalGeneration`` for 8x8 images (5 image states)."""

    def make(seed: int = 0, **changes) -> BlipForConditionalGeneration:
        vision = dict(
            hidden_size=IMAGE_WIDTH,
            intermediate_size=16,
            projection_dim=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=8,
            patch_size=4,
        )
        config = BlipConfig(
            text_config=text_config(**changes),
            vision_config=vision,
            projection_dim=WIDTH,
            image_text_hidden_size=WIDTH,
            attn_implementation="eager",
        )
        return far_from_zero(BlipForConditionalGeneration(config), seed)

    return make


@pytest.fixture
def words():
    """``words(b, n, seed)``: token ids without special tokens."""
    return lambda b=2, n=7, seed=0: torch.randint(
        3, VOCABULARY, (b, n), generator=torch.Generator().manual_seed(seed)
    )


@pytest.fixture
def image_states():
    """``image_states(b, m, seed)``: random states of an image encoder."""
    return lambda b=2, m=5, seed=0: torch.randn(
        b, m, IMAGE_WIDTH, generator=torch.Generator().manual_seed(100 + seed)
    )
