"""Each checkpoint goes to its family; what cannot be loaded is one line with a remedy."""

import json
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from attngraph.errors import UserError
from experiments import shipped
from experiments.models import Decoding, Ranking, Sample, load_family, loading
from experiments.models.blip import MINI
from experiments.models.loading import type_of
from experiments.models.mini_blip import CHECKPOINT, weights_digest
from experiments.shipped import DEFAULT
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
    assert family.name == FAMILY_OF[name] and family.title in (
        name,
        f"{type(family.model).__name__} ({name})",
    )
    assert not family.model.training and {p.dtype for p in family.model.parameters()} == {torch.float32}


def test_the_type_of_a_checkpoint_that_is_not_loaded(tmp_path):
    assert [type_of(str(save(name, tmp_path / name))) for name in ("mplug", "git")] == ["mplug", "git"]
    assert type_of(None) == "blip" and type_of("owner/name") is None
    (tmp_path / "git" / "config.json").write_text('{"model_type": ["git"]}')
    assert type_of(str(tmp_path / "git")) is None
    (tmp_path / "git" / "config.json").write_text("[")
    with pytest.raises(UserError, match=r"config\.json cannot be read \(.*\): restore it"):
        type_of(str(tmp_path / "git"))


def test_the_default_is_the_mini_blip():
    family = load_family()
    assert family.name == MINI and family.title == "mini-BLIP" and family.opening
    assert load_family(CHECKPOINT).name == MINI, "so are the checkpoints of other seeds"
    assert load_family(CHECKPOINT).title.endswith(f" ({CHECKPOINT.name})")  # by its folder, it is any BLIP


def test_titles_tell_what_kind_of_model_it_is(tmp_path):
    for name, title in (("model", "BertModel (model)"), ("tiny-Bert_2", "BertModel (tiny-Bert_2)")):
        folder = save("bert", tmp_path / name)
        assert load_family(folder).title == load_family(f"{folder}/../{name}/").title == title


def test_no_bar_while_weights_are_read(tmp_path, capsys):
    folder = save("bert", tmp_path)
    logging.enable_progress_bar()  # commands that ran in this process may have turned it off
    capsys.readouterr()
    load_family(folder)
    assert "Loading weights" not in capsys.readouterr().err and logging.is_progress_bar_enabled()


@pytest.mark.parametrize("name", ["bert", "classifier", "t5"])
def test_a_model_that_writes_no_answers_says_so(name, tmp_path):
    family, sample = load_family(save(name, tmp_path)), Sample("one", None, "a", "red")
    for way in (Decoding(), Ranking(("a",))):
        with pytest.raises(UserError, match=rf"\({tmp_path.name}\) writes no answers") as error:
            family.answer([sample], way)
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


def test_a_name_that_the_hub_does_not_give_is_no_reason_to_allow_a_download(monkeypatch, capsys):
    def offline(*_, **__):
        raise OSError("We couldn't connect")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", offline)
    with pytest.raises(UserError, match="couldn't connect.*check the name and the network") as error:
        load_family("no-such-owner/no-such-model", download=True)
    assert "--download" not in str(error.value)
    assert capsys.readouterr().err == "looking for no-such-owner/no-such-model on the hub\n"


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_a_tokenizer_without_words_is_refused(name, tmp_path):
    """transformers makes one where the file is missing, and every word is unknown to it."""
    folder = save(name, tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="tokenizer") as error:
        load_family(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def stands_in(monkeypatch, tmp_path):
    """A small mPLUG in the place of the shipped one, beside the shipped mini-BLIP; a folder to work in."""
    checkpoints = tmp_path / "shipped"
    save("mplug", checkpoints / "mini-mplug")
    (checkpoints / DEFAULT).symlink_to(CHECKPOINT)
    for module in (shipped, loading):
        monkeypatch.setattr(module, "CHECKPOINTS", checkpoints)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return checkpoints


def test_shipped_models_go_by_their_names(stands_in, capsys):
    named = load_family("mini-mplug")
    assert (named.name, named.title) == ("mplug", "mini-mPLUG") and type_of("mini-mplug") == "mplug"
    assert weights_digest("mini-mplug") == weights_digest(stands_in / "mini-mplug") != weights_digest()
    default = load_family(DEFAULT)
    assert (default.name, default.title, default.opening) == (MINI, "mini-BLIP", load_family().opening)
    assert weights_digest(DEFAULT) == weights_digest() and type_of(DEFAULT) == "blip"
    assert capsys.readouterr().err == ""


def test_a_folder_of_a_shipped_models_name_is_told_apart_by_its_path(stands_in, capsys):
    """Else what a command computes would depend on the directory that it is called in."""
    save("git", Path("mini-mplug"))
    capsys.readouterr()
    assert load_family("mini-mplug").name == "mplug"
    assert capsys.readouterr().err.splitlines() == [
        "mini-mplug is the model that ships with the package; the folder here is ./mini-mplug"
    ]
    for own in ("./mini-mplug", Path("mini-mplug"), "mini-mplug/"):
        assert load_family(own).name == "image_text" and load_family(own).title.endswith("(mini-mplug)")
        assert weights_digest(own) != weights_digest("mini-mplug")


@pytest.mark.parametrize("name, chosen", [("mini-mplug", " --model mini-mplug"), (DEFAULT, "")])
def test_a_shipped_model_that_is_gone(name, chosen, monkeypatch, tmp_path):
    for module in (shipped, loading):
        monkeypatch.setattr(module, "CHECKPOINTS", tmp_path)
    with pytest.raises(UserError) as error:
        load_family(name)
    assert str(error.value) == (
        f"--model {name}: {tmp_path / name} is missing or incomplete: reinstall the package, or make it "
        f"again with `attngraph pretrain{chosen}`"
    )
