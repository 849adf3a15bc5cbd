"""mini-mPLUG: its sizes, and that it is a model like any other mPLUG."""

import pytest
import torch
from PIL import Image

from experiments.models import Decoding, Sample, load_family
from experiments.models.mini_blip import grid_positions
from experiments.models.mplug.fusion import FusionLayer, JoinedLayer
from experiments.models.mplug.mini import build_model
from experiments.pretraining.minis import MINIS
from experiments.tasks import TASKS
from tests.experiments.pretraining.small import small_mplug


@pytest.fixture(scope="module")
def tokenizer():
    return MINIS["mini-mplug"].tokenizer()


def test_sizes(tokenizer):
    model = build_model(tokenizer)
    assert 3e6 < model.num_parameters() <= 4e6, "in float16 that is within 8 MB"
    kinds = [type(layer) for layer in model.fusion_encoder.layer]
    assert kinds == [FusionLayer, FusionLayer, FusionLayer, JoinedLayer]
    assert not any(module.p for module in model.modules() if isinstance(module, torch.nn.Dropout))
    assert model.config.vision_config.attention_dropout == 0
    positions = model.vision_model.embeddings.position_embedding.weight
    assert torch.equal(positions[1:], grid_positions(8, 128))
    assert model.vision_model(torch.zeros(2, 3, 64, 64)).last_hidden_state.shape == (2, 65, 128)
    asked = torch.full((2, 7), 5)
    written = torch.full((2, 4), 6)
    logits = model(torch.zeros(2, 3, 64, 64), asked, decoder_input_ids=written).logits
    assert logits.shape == (2, 4, len(tokenizer))


def test_a_saved_one_is_of_the_family_and_answers_what_tasks_ask(tokenizer, tmp_path):
    small_mplug(tokenizer).half().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    family = load_family(tmp_path)
    assert family.name == "mplug" and family.image_side == 64
    assert family.tokenizer.bos_token == family.tokenizer.cls_token
    picture = Image.new("RGB", (64, 64))
    for task, prompt in (("vqa", "is it red ?"), ("ve", "is it correct that it is red ?"), ("caption", "")):
        assert (TASKS[task].prompts.get(family.name) == "") == (prompt == "")
        (text,) = family.generate([Sample("a", picture, prompt)], Decoding(max_new_tokens=3))
        assert isinstance(text, str)
