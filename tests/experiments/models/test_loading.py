"""Each checkpoint goes to its family; what cannot be loaded is one line with a remedy."""

import json

import pytest
import torch

from attngraph.errors import UserError
from experiments.models import Decoding, Sample, load_family
from experiments.models.mini_blip import CHECKPOINT
from tests.experiments.tiny import save

FAMILY_OF = {
    "blip": "blip",
    "blip-vqa": "blip_vqa",
    "llava": "image_text",
    "smolvlm": "image_text",
    "qwen2-vl": "image_text",
    "blip2": "image_text",
    "git": "image_text",
    "captioner": "vision_encoder_decoder",
    "donut": "vision_encoder_decoder",
    "bert": "processor",
    "gpt2": "processor",
    "t5": "processor",
    "vit": "processor",
    "classifier": "processor",
    "clip": "processor",
    "vilt-vqa": "processor",
}


@pytest.mark.parametrize("name", FAMILY_OF)
def test_each_checkpoint_goes_to_its_family(name, tmp_path):
    family = load_family(save(name, tmp_path / name))
    assert family.name == FAMILY_OF[name] and family.title == name
    assert not family.model.training and {p.dtype for p in family.model.parameters()} == {torch.float32}


def test_the_default_is_the_mini_blip():
    family = load_family()
    assert family.name == "blip" and family.title == "mini-BLIP" and family.opening
    assert load_family(CHECKPOINT).title == CHECKPOINT.name  # by its folder, it is any BLIP


@pytest.mark.parametrize("name", ["bert", "classifier", "t5"])
def test_a_model_that_writes_no_answers_says_so(name, tmp_path):
    family, sample = load_family(save(name, tmp_path)), Sample("one", None, "a", "red")
    for ask in (lambda: family.generate([sample], Decoding()), lambda: family.rank([sample], ["a"])):
        with pytest.raises(UserError, match=f"{tmp_path.name} .* writes no answers") as error:
            ask()
        assert "\n" not in str(error.value)


def _cut(file):
    def damage(folder):
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])

    return damage


def _remove(*files):
    def damage(folder):
        for file in files:
            (folder / file).unlink()

    return damage


def _other_architecture(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "nonesuch"}))


def _deeper(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] += 1
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", ["llava", "blip-vqa", "captioner", "blip"])
@pytest.mark.parametrize(
    "damage",
    [
        _remove("config.json"),
        _remove("model.safetensors"),
        _cut("config.json"),
        _cut("model.safetensors"),
        _cut("tokenizer.json"),
        _other_architecture,
    ],
    ids=["no config", "no weights", "cut config", "cut weights", "cut tokenizer", "unknown type"],
)
def test_a_damaged_folder_is_one_line(name, damage, tmp_path):
    folder = save(name, tmp_path)
    damage(folder)
    with pytest.raises(UserError) as error:
        load_family(folder)
    message = str(error.value)
    assert str(folder) in message and "\n" not in message
    assert any(
        remedy in message
        for remedy in ("give a folder with config.json", "no folder with", "check the folder")
    )


@pytest.mark.parametrize("name", ["llava", "blip-vqa", "blip"])
def test_missing_weights_are_refused(name, tmp_path):
    """transformers draws them at random, with a warning."""
    folder = save(name, tmp_path)
    _deeper(folder)
    with pytest.raises(UserError, match="weights missing or of another shape") as error:
        load_family(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "no folder with a config.json, and no hub name"),
        ("no-such-owner/no-such-model", r"cannot be loaded .*allow the download \(--download\)"),
    ],
)
def test_an_unknown_name_is_one_line(name, message):
    with pytest.raises(UserError, match=message) as error:
        load_family(name)
    assert "\n" not in str(error.value)
