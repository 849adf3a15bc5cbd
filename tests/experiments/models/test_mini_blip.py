"""The shipped checkpoint, saving and loading, bad checkpoints, and pixels."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

from attngraph.errors import UserError
from experiments.models import load_family
from experiments.models.generation import frozen_image_states, generate_text
from experiments.models.mini_blip import (
    CHECKPOINT,
    IMAGE_MEAN,
    IMAGE_STD,
    build_model,
    load_model,
    preprocess,
)
from experiments.pretraining.tokenizer import build_tokenizer

needs_checkpoint = pytest.mark.skipif(not (CHECKPOINT / "scores.json").exists(), reason="not pre-trained yet")


@pytest.fixture
def folder(tmp_path):
    tokenizer = build_tokenizer(["red", "circle"])
    torch.manual_seed(0)
    model = build_model(tokenizer, width=32, vision_layers=1, text_layers=1)
    model.half().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_saved_model_loads_with_the_same_weights(folder):
    torch.manual_seed(0)
    original = build_model(build_tokenizer(["red", "circle"]), width=32, vision_layers=1, text_layers=1)
    model, tokenizer = load_model(folder)
    assert not model.training and tokenizer.bos_token == "[DEC]"
    for name, weight in model.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, original.state_dict()[name].half().float()), name


def test_attention_is_eager_and_heads_are_tied(folder):
    model, _ = load_model(folder)
    assert model.text_decoder.config._attn_implementation == "eager"
    assert (
        model.text_decoder.cls.predictions.decoder.weight is model.text_decoder.get_input_embeddings().weight
    )


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file_is_one_clear_line(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}.* missing; ") as error:
        load_model(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_damaged_file_is_one_clear_line(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be loaded") as error:
        load_model(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_weights_of_another_architecture_are_refused(folder):
    tokenizer = build_tokenizer(["red", "circle"])
    build_model(tokenizer, width=32, vision_layers=2, text_layers=1).config.save_pretrained(folder)
    with pytest.raises(UserError, match="missing or of another shape"):
        load_model(folder)


def test_unknown_name_is_not_looked_up_on_the_network():
    with pytest.raises(UserError, match="cannot be loaded .*existing folder"):
        load_model("no-such-owner/no-such-blip")


def test_pixels(tmp_path):
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, :, 0] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    pixels = preprocess([tmp_path / "a.png", Image.fromarray(picture).resize((30, 50))])
    assert pixels.shape == (2, 3, 64, 64) and pixels.dtype == torch.float32
    assert torch.allclose(pixels[0], pixels[1], atol=0.02)
    assert pixels[0, 0, 0, 0] == pytest.approx((1 - 0.48145466) / 0.26862954, abs=1e-4)
    with pytest.raises(UserError, match="not found"):
        preprocess([tmp_path / "b.png"])
    (tmp_path / "c.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="cannot be read"):
        preprocess([tmp_path / "c.png"])


@needs_checkpoint
def test_shipped_checkpoint_is_small_and_sees():
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) <= 8e6
    model, tokenizer = load_model()
    picture = Image.new("RGB", (64, 64), (240, 240, 240))
    picture.paste((225, 35, 40), (20, 20, 45, 45))
    states = frozen_image_states(model, preprocess([picture]))
    assert generate_text(
        model, tokenizer, states, ["which color does the thing have ?"], max_new_tokens=4
    ) == ["red"]


def test_checkpoint_in_the_hub_layout_gets_its_start_and_end_tokens(tmp_path):
    """Hub tokenizers do not know [DEC], and hub configurations name another end token than [SEP]."""
    vocabulary = {t: i for i, t in enumerate("[PAD] [UNK] [CLS] [SEP] [MASK] a red circle".split())}
    BertTokenizerFast(vocab=vocabulary).save_pretrained(tmp_path)
    shared = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4)
    text = dict(
        shared, vocab_size=10, bos_token_id=8, eos_token_id=2, sep_token_id=3, max_position_embeddings=32
    )
    vision = dict(shared, image_size=32, patch_size=16, initializer_range=0.02)
    BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)).save_pretrained(tmp_path)
    model, tokenizer = load_model(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.sep_token_id, tokenizer.model_max_length) == (8, 3, 32)
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[3] = 100  # ends at once
    states = frozen_image_states(model, preprocess([Image.new("RGB", (9, 9))], image_size=32))
    assert generate_text(model, tokenizer, states, ["a red circle"], max_new_tokens=9) == [""]


@pytest.mark.parametrize("mean, std", [(IMAGE_MEAN, IMAGE_STD), ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))])
def test_the_checkpoints_processor_says_how_pixels_are_normalised(mean, std, folder):
    """Pixels as transformers' own processor makes them."""
    processor = BlipImageProcessor(size={"height": 64, "width": 64}, image_mean=mean, image_std=std)
    processor.save_pretrained(folder)
    family = load_family(str(folder))
    draw = np.random.default_rng(0)
    picture = Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    theirs = processor(picture, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(family.pixels([picture]), theirs, atol=1e-5, rtol=0)
    assert str(mean) in family.image_settings and family.image_side == 64
    (folder / "preprocessor_config.json").unlink()
    assert load_family(str(folder)).mean == IMAGE_MEAN, "BLIP's own without a processor"
