"""BLIP's two families and what mPLUG shares with them: cached states, sides of pictures, pixels, tokenizers;
its own classes' numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
)

from attngraph.errors import UserError
from experiments.models import IGNORED, Decoding, Ranking, Sample, load_family
from experiments.models.batch import token_losses
from experiments.models.blip import CHECKPOINT, BlipAnswerer, build_model
from experiments.models.images import IMAGE_MEAN
from experiments.studies.pretrain import build_tokenizer
from tests.experiments.models.writers import SAMPLES, load
from tests.experiments.tiny import save


@pytest.fixture(params=["blip", "blip-vqa", "mplug"], scope="module")
def caching(request):
    return load(request.param)


def test_cached_states_stand_for_pixels(caching):
    states = caching.encode_images([sample.image for sample in SAMPLES])
    assert caching.blank_image().shape == states.shape[1:] and not caching.blank_image().any()
    cached = [replace(sample, image=state) for sample, state in zip(SAMPLES, states)]

    def logits(samples):
        inputs = caching.training_inputs(samples)
        labels = inputs.pop("labels")
        with torch.no_grad():
            return caching.logits(inputs)[:, :-1][labels[:, 1:] != IGNORED]

    torch.testing.assert_close(logits(cached), logits(SAMPLES), rtol=1e-5, atol=1e-5)
    assert caching.generate(cached, Decoding(5, 3)) == caching.generate(SAMPLES, Decoding(5, 3))
    ranked = [caching.rank(samples, Ranking(("a", "red"))) for samples in (cached, SAMPLES)]
    torch.testing.assert_close(ranked[0].scores, ranked[1].scores)


def test_equal_pictures_are_encoded_once(caching):
    inputs = caching.training_inputs([SAMPLES[0], SAMPLES[1], replace(SAMPLES[2], image=SAMPLES[0].image)])
    assert len(inputs["pixel_values"]) == 2 and inputs["image_index"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", ["blip", "mplug"])
def test_a_model_sees_pictures_of_the_side(name, tmp_path):
    folder = save(name, tmp_path)
    plain = load_family(folder)
    own = plain.image_side
    wide = load_family(folder, side=2 * own)
    pixels = np.random.default_rng(0).integers(0, 255, (2 * own, 2 * own, 3), dtype=np.uint8)
    sample = Sample("one", Image.fromarray(pixels), "a red", "ball")
    assert wide.image_side == 2 * own and wide.image_settings != plain.image_settings
    assert wide.encode_images([sample.image]).shape[1] == len(wide.blank_image()) > len(plain.blank_image())
    patches = (2 * own // wide.model.config.vision_config.patch_size) ** 2
    assert wide.batch([sample]).pictures.grids[0] == (int(patches**0.5),) * 2
    assert len(wide.answer([sample], Decoding(3))) == len(wide.answer([sample], Ranking(("a", "red")))) == 1
    wide.model.save_pretrained(tmp_path / "again")
    wide.tokenizer.save_pretrained(tmp_path / "again")
    again = load_family(tmp_path / "again")
    assert again.image_side == 2 * own and torch.equal(losses(again, [sample]), losses(wide, [sample]))
    with pytest.raises(UserError, match="multiple"):
        again.resize(10)


# ---- question answering ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save("blip-vqa", tmp_path_factory.mktemp("blip-vqa"))


@pytest.fixture(scope="module")
def family(folder):
    return load_family(folder)


def losses(family, samples) -> torch.Tensor:
    inputs = family.training_inputs(samples)
    labels = inputs.pop("labels")
    with torch.no_grad():
        return token_losses(family.logits(inputs), labels).sum(1)


def test_padding_of_the_question_changes_no_logits(family):
    """transformers' own class lets the answer look at it."""
    inputs = family.training_inputs(
        [SAMPLES[0], replace(SAMPLES[0], prompt="a red ball star a red ball star")]
    )
    inputs.pop("labels")
    garbled = inputs["question_ids"].masked_fill(inputs["question_mask"] == 0, 7)
    assert not torch.equal(garbled, inputs["question_ids"])
    with torch.no_grad():
        assert torch.equal(family.logits(inputs), family.logits(inputs | {"question_ids": garbled}))


def test_long_questions_keep_start_and_end(family):
    inputs = family.training_inputs([replace(SAMPLES[0], prompt="a red ball " * 50)])
    ids = inputs["question_ids"][0]
    assert len(ids) == family.longest and ids[-1] == family.tokenizer.sep_token_id
    assert family.tokenizer.convert_ids_to_tokens(int(ids[0])) == "[ENC]"


def test_a_question_is_needed(family):
    with pytest.raises(UserError, match="answers questions: give --texts"):
        family.check([Sample("one", SAMPLES[0].image)])
    with pytest.raises(UserError, match="looks at images: give --images"):
        family.check([Sample("one", None, "a", "red")])
    family.check([Sample("one", SAMPLES[0].image, "", "a red ball")])


def test_start_tokens(family):
    """``[ENC]`` where the model has an embedding for it, else ``[CLS]``; another end token is refused."""

    def words() -> BertTokenizerFast:
        names = "[PAD] [UNK] [CLS] [SEP] [MASK] a red".split()
        return BertTokenizerFast(vocab={name: k for k, name in enumerate(names)})

    def config(size: int, end: int = 3):
        changed = type(family.model.config).from_dict(family.model.config.to_dict())
        changed.text_config.vocab_size, changed.text_config.bos_token_id = size, 7
        changed.text_config.sep_token_id = end
        return changed

    with_both, with_one = BlipAnswerer.prepared(words(), config(9)), BlipAnswerer.prepared(words(), config(8))
    assert with_both.get_vocab()["[ENC]"] == 8 and "[ENC]" not in with_one.get_vocab()
    assert with_both.bos_token == with_one.bos_token == "[DEC]" and with_both.bos_token_id == 7
    with pytest.raises(UserError, match="start or end token is not the model's"):
        BlipAnswerer.prepared(words(), config(9, end=2))


# ---- captioners ------------------------------------------------------------------------------------------


def test_the_shipped_checkpoint_is_small_and_sees():
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) <= 8e6
    picture = Image.new("RGB", (64, 64), (240, 240, 240))
    picture.paste((225, 35, 40), (20, 20, 45, 45))
    asked = Sample("one", picture, "which color does the thing have ?")
    assert load_family().generate([asked], Decoding(4)) == ["red"]


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
    family = load_family(tmp_path)
    tokenizer = family.tokenizer
    assert (tokenizer.bos_token_id, tokenizer.sep_token_id, tokenizer.model_max_length) == (8, 3, 32)
    with torch.no_grad():
        family.model.text_decoder.cls.predictions.bias[3] = 100  # ends at once
    assert family.generate([Sample("one", Image.new("RGB", (9, 9)), "a red circle")], Decoding(9)) == [""]


def test_a_saved_mini_blip_comes_back_and_its_processor_says_how_pixels_are_normalised(tmp_path):
    """In float32; pixels as transformers' own processor makes them."""
    torch.manual_seed(0)
    mini, tokenizer = tmp_path, build_tokenizer(["red", "circle"])
    original = build_model(tokenizer, width=32, vision_layers=1, text_layers=1).half()
    original.save_pretrained(mini)
    tokenizer.save_pretrained(mini)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    processor = BlipImageProcessor(size={"height": 64, "width": 64}, image_mean=mean, image_std=std)
    processor.save_pretrained(mini)
    family = load_family(str(mini))
    state = original.state_dict()
    assert all(torch.equal(x, state[name].float()) for name, x in family.model.state_dict().items())
    decoder = family.model.text_decoder
    assert decoder.config._attn_implementation == "eager" and family.tokenizer.bos_token == "[DEC]"
    draw = np.random.default_rng(0)
    picture = Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    theirs = processor(picture, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(family.pixels([picture]), theirs, atol=1e-5, rtol=0)
    assert str(mean) in family.image_settings and family.image_side == 64
    (mini / "preprocessor_config.json").unlink()
    assert load_family(str(mini)).mean == IMAGE_MEAN, "BLIP's own without a processor"
