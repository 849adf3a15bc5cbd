"""BLIP's two families and what mPLUG shares with them: cached states, sides of pictures, pixels, tokenizers;
its own classes' numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizerFast, BlipImageProcessor

from attngraph.errors import UserError
from attngraph.experiments.models import Decoding, Ranking, Sample, load_family
from attngraph.experiments.models.blip import CHECKPOINT, BlipAnswerer, build_model
from attngraph.experiments.models.images import IMAGE_MEAN
from attngraph.experiments.studies.pretrain import build_tokenizer
from tests.experiments.models.test_contract import loss
from tests.experiments.models.writers import SAMPLES, load
from tests.experiments.tiny import save


@pytest.fixture(params=["blip", "blip-vqa", "mplug"], scope="module")
def caching(request):
    return load(request.param)


@pytest.fixture(scope="module")
def asker():
    return load("blip-vqa")


def test_cached_states_stand_for_pixels(caching):
    states = caching.encode_images([sample.image for sample in SAMPLES])
    assert caching.blank_image().shape == states.shape[1:] and not caching.blank_image().any()
    cached = [replace(sample, image=state) for sample, state in zip(SAMPLES, states)]
    torch.testing.assert_close(loss(caching, cached), loss(caching, SAMPLES), rtol=1e-5, atol=1e-5)
    assert caching.generate(cached, Decoding(5, 3)) == caching.generate(SAMPLES, Decoding(5, 3))
    ranked = [caching.rank(samples, Ranking(("a", "red"))) for samples in (cached, SAMPLES)]
    torch.testing.assert_close(ranked[0].scores, ranked[1].scores)


def test_equal_pictures_are_encoded_once(caching):
    inputs = caching.training_inputs([SAMPLES[0], SAMPLES[1], replace(SAMPLES[2], image=SAMPLES[0].image)])
    assert len(inputs["pixel_values"]) == 2 and inputs["image_index"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", ["blip", "mplug"])
def test_a_model_sees_pictures_of_the_side(name, tmp_path):
    folder = save(name, tmp_path)
    plain, sample = load_family(folder), SAMPLES[1]
    own = plain.image_side
    wide = load_family(folder, side=2 * own)
    assert wide.image_side == 2 * own and wide.image_settings != plain.image_settings
    assert wide.encode_images([sample.image]).shape[1] == len(wide.blank_image()) > len(plain.blank_image())
    rows = 2 * own // wide.model.config.vision_config.patch_size
    assert wide.batch([sample]).pictures.grids[0] == (rows, rows)
    assert len(wide.answer([sample], Decoding(3))) == len(wide.answer([sample], Ranking(("a", "red")))) == 1
    wide.model.save_pretrained(tmp_path / "again")
    wide.tokenizer.save_pretrained(tmp_path / "again")
    again = load_family(tmp_path / "again")
    assert again.image_side == 2 * own and torch.equal(loss(again, [sample]), loss(wide, [sample]))
    with pytest.raises(UserError, match="multiple"):
        again.resize(10)


# ---- question answering ----------------------------------------------------------------------------------


def test_padding_of_the_question_changes_no_logits(asker):
    """transformers' own class lets the answer look at it."""
    inputs = asker.training_inputs(
        [SAMPLES[0], replace(SAMPLES[0], prompt="a red ball star a red ball star")]
    )
    inputs.pop("labels")
    garbled = inputs["question_ids"].masked_fill(inputs["question_mask"] == 0, 7)
    assert not torch.equal(garbled, inputs["question_ids"])
    with torch.no_grad():
        assert torch.equal(asker.logits(inputs), asker.logits(inputs | {"question_ids": garbled}))


def test_questions(asker):
    """Long ones keep start and end; in an analysis one is needed, or a text."""
    inputs = asker.training_inputs([replace(SAMPLES[0], prompt="a red ball " * 50)])
    ids = inputs["question_ids"][0]
    assert len(ids) == asker.max_tokens and ids[-1] == asker.tokenizer.sep_token_id
    assert asker.tokenizer.convert_ids_to_tokens(int(ids[0])) == "[ENC]"
    with pytest.raises(UserError, match="needs questions: add --texts"):
        asker.check([Sample("one", SAMPLES[0].image)])
    with pytest.raises(UserError, match="needs images: add --images"):
        asker.check([Sample("one", None, "a", "red")])
    asker.check([Sample("one", SAMPLES[0].image, "", "a red ball")])


def test_start_tokens(asker):
    """Hub tokenizers know none: ``[DEC]``, and ``[ENC]`` where the model has an embedding for it; another end
    token than the model's is refused."""

    def prepared(size: int, end: int = 3):
        words = BertTokenizerFast(
            vocab={name: k for k, name in enumerate("[PAD] [UNK] [CLS] [SEP] [MASK]".split())}
        )
        config = type(asker.model.config).from_dict(asker.model.config.to_dict())
        config.text_config.vocab_size, config.text_config.bos_token_id = size, 5
        config.text_config.sep_token_id = end
        return BlipAnswerer.prepared(words, config)

    assert prepared(7).get_vocab()["[ENC]"] == 6 and "[ENC]" not in prepared(6).get_vocab()
    assert prepared(7).bos_token == prepared(6).bos_token == "[DEC]" and prepared(7).bos_token_id == 5
    with pytest.raises(UserError, match="start or end token is not the model's"):
        prepared(7, end=2)


# ---- captioners ------------------------------------------------------------------------------------------


def test_the_shipped_checkpoint_is_small_and_sees():
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) <= 8e6
    picture = Image.new("RGB", (64, 64), (240, 240, 240))
    picture.paste((225, 35, 40), (20, 20, 45, 45))
    asked = Sample("one", picture, "which color does the thing have ?")
    assert load_family().generate([asked], Decoding(4)) == ["red"]


def test_hub_configurations_name_another_end_token(tmp_path):
    family = load_family(save("blip", tmp_path))
    family.model.config.text_config.eos_token_id = 2
    family.model.save_pretrained(tmp_path)
    again = load_family(tmp_path)
    with torch.no_grad():
        again.model.text_decoder.cls.predictions.bias[again.tokenizer.sep_token_id] = 1000  # ends at once
    assert again.generate(SAMPLES, Decoding(9)) == [""] * 3


def test_a_saved_mini_blip_comes_back_and_its_processor_says_how_pixels_are_normalised(tmp_path):
    """In float32; pixels as transformers' own processor makes them."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["red", "circle"])
    original = build_model(tokenizer, width=32, vision_layers=1, text_layers=1).half()
    original.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    processor = BlipImageProcessor(size={"height": 64, "width": 64}, image_mean=mean, image_std=std)
    processor.save_pretrained(tmp_path)
    family = load_family(str(tmp_path))
    state = original.state_dict()
    assert all(torch.equal(x, state[name].float()) for name, x in family.model.state_dict().items())
    assert family.model.text_decoder.config._attn_implementation == "eager"
    draw = np.random.default_rng(0)
    picture = Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    theirs = processor(picture, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(family.pixels([picture]), theirs, atol=1e-5, rtol=0)
    assert str(mean) in family.image_settings and family.image_side == 64
    (tmp_path / "preprocessor_config.json").unlink()
    assert load_family(str(tmp_path)).mean == IMAGE_MEAN, "BLIP's own without a processor"
