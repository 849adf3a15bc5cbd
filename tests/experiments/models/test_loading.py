"""Each checkpoint goes to its family; what cannot be loaded, or does not belong together, is one line."""

import json
import shutil
from pathlib import Path

import httpx
import pytest
import torch
import transformers as hf
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers.utils import hub, logging

from attngraph.errors import UserError
from attngraph.experiments.base import shipped
from attngraph.experiments.base.shipped import DEFAULT
from attngraph.experiments.models import Decoding, Ranking, Sample, load_family
from attngraph.experiments.models.blip import CHECKPOINT, MINI
from attngraph.experiments.models.loading import type_of
from attngraph.experiments.models.weights import weights_digest
from tests.attngraph.reading.zoo import TEXT
from tests.experiments.tiny import save

FAMILY_OF = {
    "image_text": ("llava", "blip2"),
    "vision_encoder_decoder": ("captioner", "donut"),
    "processor": ("bert", "classifier", "clip", "vilt-vqa", "mllama"),
    "blip": ("blip",),
    "blip_vqa": ("blip-vqa",),
}


@pytest.mark.parametrize("kind", FAMILY_OF)
def test_each_checkpoint_goes_to_its_family(kind, tmp_path, capsys):
    for name in FAMILY_OF[kind]:
        folder = save(name, tmp_path / name)
        logging.enable_progress_bar()  # commands that ran in this process may have turned it off
        capsys.readouterr()
        family = load_family(folder)
        assert "Loading weights" not in capsys.readouterr().err and logging.is_progress_bar_enabled()
        assert family.name == kind and family.title == f"{type(family.model).__name__} ({name})"
        assert not family.model.training and {p.dtype for p in family.model.parameters()} == {torch.float32}


def test_the_type_of_a_checkpoint_that_is_not_loaded(tmp_path):
    assert [type_of(str(save(name, tmp_path / name))) for name in ("mplug", "git")] == ["mplug", "git"]
    assert type_of(None) == "blip" and type_of("owner/name") is None
    (tmp_path / "git" / "config.json").write_text("[")
    with pytest.raises(UserError, match=r"config\.json: not valid JSON"):
        type_of(str(tmp_path / "git"))


def test_a_model_that_writes_no_answers_says_so(tmp_path):
    family, sample = load_family(save("t5", tmp_path)), Sample("one", None, "a", "red")
    for way in (Decoding(), Ranking(("a",))):
        with pytest.raises(UserError, match=rf"\({tmp_path.name}\) does not generate text"):
            family.answer([sample], way)
    with pytest.raises(UserError, match="side 48: .* remove side"):
        family.resize(48)


# ---- damaged folders -------------------------------------------------------------------------------------


def change(file, **fields):
    """Set fields of a configuration."""
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def cut(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def without_a_weight(file):
    state = load_file(file)
    del state["encoder.layer.1.attention.self.query.weight"]
    save_file(state, file, {"format": "pt"})


def with_a_bias(file):
    """Part of a layer that the configuration switched off."""
    state = load_file(file)
    key = next(key for key in state if key.endswith("layers.0.self_attn.q_proj.weight"))
    save_file(state | {key.replace("weight", "bias"): torch.zeros(8)}, file, {"format": "pt"})


#: Which model's file, what is done to it, and what is said.
DAMAGES = {
    "no config": ("blip", "config.json", Path.unlink, "not a folder with a config.json"),
    "no weights": ("blip", "model.safetensors", Path.unlink, "check the folder's files"),
    "no tokenizer": ("blip", "tokenizer.json", Path.unlink, "tokenizer"),
    "cut config": ("llava", "config.json", cut, "check the folder's files"),
    "cut weights": ("llava", "model.safetensors", cut, "check the folder's files"),
    "unknown type": (
        "blip",
        "config.json",
        lambda file: change(file, model_type="x"),
        "check the folder's files",
    ),
    "another type": (
        "blip-vqa",
        "config.json",
        lambda file: change(file, model_type="bert"),
        "config.json has the model_type bert, which does not match BlipForQuestionAnswering.*: restore it",
    ),
    "cut generation": ("llava", "generation_config.json", cut, "generation_config.json.*check the folder's"),
    "fewer layers": (
        "gpt2",
        "config.json",
        lambda file: change(file, n_layer=1),
        r"\d+ weights are missing, of another shape, or of layers .*, first .*\d",
    ),
    "more layers": (
        "t5",
        "config.json",
        lambda file: change(file, num_decoder_layers=3),
        "weights are missing",
    ),
    "another size": ("bert", "config.json", lambda file: change(file, hidden_size=8), "--model"),
    "a weight is missing": (
        "bert",
        "model.safetensors",
        without_a_weight,
        "1 weights are .*1.attention.self.query",
    ),
    "part of a layer": (
        "llava",
        "model.safetensors",
        with_a_bias,
        "1 weights are .* first .*layers.0.self_attn.q_proj.bias",
    ),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_folder_is_one_line(how, tmp_path):
    """transformers leaves a file's further layers out, and draws missing ones at random, both in silence."""
    name, file, damage, match = DAMAGES[how]
    folder = save(name, tmp_path)
    damage(folder / file)
    with pytest.raises(UserError, match=match) as error:
        load_family(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize("kind", [hf.BertForMaskedLM, hf.BertModel])
def test_another_tasks_head_does_not_matter(kind, tmp_path):
    folder = save("bert", tmp_path)
    kind(hf.BertConfig(**TEXT)).save_pretrained(folder)
    change(folder / "config.json", architectures=["BertForTokenClassification"])
    assert type(load_family(folder).model).__name__ == "BertForTokenClassification"


# ---- names -----------------------------------------------------------------------------------------------


def test_an_unknown_name_is_one_line(monkeypatch, capsys):
    """What the hub does not give is no reason to allow a download."""
    with pytest.raises(UserError, match="not a folder with a config.json, and not a hub name"):
        load_family("nowhere")
    with pytest.raises(UserError, match=r"allow the download \(--model hub:no-such-owner/no-such-model\)"):
        load_family("no-such-owner/no-such-model")

    def offline(*_, **__):
        raise OSError("We couldn't connect")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", offline)
    with pytest.raises(UserError, match="couldn't connect.*check the name and the network$"):
        load_family("no-such-owner/no-such-model", download=True)
    assert capsys.readouterr().err == "searching for no-such-owner/no-such-model on the hub\n"


@pytest.mark.parametrize("name", ["blip-vqa", "captioner"])
def test_the_hub_is_asked_for_files_with_download_and_only_then(name, monkeypatch, tmp_path):
    """Of a model that is in the hub's cache; never for a folder, or a model that ships with the package."""
    place = tmp_path / "models--some--one"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    shutil.copytree(save(name, tmp_path / name), place / "snapshots" / ("0" * 40))
    cached_files, asked = hub.cached_files, []

    def unreachable(*_, **__):
        raise httpx.ConnectError("no network")

    def noted(*words, local_files_only=False, **more):
        asked.append(local_files_only)
        return cached_files(*words, local_files_only=True, **more)

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("httpx.Client.send", unreachable)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.setattr(hub, "cached_files", noted)
    for download in (False, True):
        asked.clear()
        assert load_family("some/one", download=download).title.endswith("(one)")
        assert set(asked) == {not download} and len(asked) > 3
    for local in (tmp_path / name, None):
        asked.clear()
        load_family(local, download=True)
        assert set(asked) == {True}


@pytest.fixture
def stands_in(monkeypatch, tmp_path):
    """A small mPLUG in the place of the shipped one, next to the shipped mini-BLIP; a folder to work in."""
    checkpoints = tmp_path / "shipped"
    save("mplug", checkpoints / "mini-mplug")
    (checkpoints / DEFAULT).symlink_to(CHECKPOINT)
    monkeypatch.setattr(shipped, "CHECKPOINTS", checkpoints)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return checkpoints


def test_shipped_models_go_by_their_names(stands_in):
    named = load_family("mini-mplug")
    assert (named.name, named.title) == ("mplug", "mini-mPLUG") and type_of("mini-mplug") == "mplug"
    assert weights_digest("mini-mplug") == weights_digest(stands_in / "mini-mplug") != weights_digest()
    for default in (load_family(), load_family(DEFAULT)):
        assert (default.name, default.title) == (MINI, "mini-BLIP") and default.opening
    other = load_family(CHECKPOINT)  # by its folder it is any BLIP, but for its prompts
    assert other.name == MINI and other.title.endswith(f" ({CHECKPOINT.name})")
    assert weights_digest(DEFAULT) == weights_digest() and type_of(DEFAULT) == "blip"


def test_a_folder_of_a_shipped_models_name_is_told_apart_by_its_path(stands_in):
    """Else what a command computes would depend on the directory that it is called in."""
    save("git", Path("mini-mplug"))
    assert load_family("mini-mplug").name == "mplug"
    for own in ("./mini-mplug", Path("mini-mplug")):
        assert load_family(own).name == "image_text" and load_family(own).title.endswith("(mini-mplug)")
        assert weights_digest(own) != weights_digest("mini-mplug")
    shutil.rmtree(stands_in / "mini-mplug")
    with pytest.raises(UserError, match="train it again with `attngraph pretrain --model mini-mplug`"):
        load_family("mini-mplug")
