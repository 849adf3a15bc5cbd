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
from experiments.base import shipped
from experiments.base.shipped import DEFAULT
from experiments.models import Decoding, Ranking, Sample, load_family
from experiments.models.blip import CHECKPOINT, MINI
from experiments.models.loading import type_of
from experiments.models.weights import weights_digest
from tests.attngraph.reading.zoo import TEXT
from tests.experiments.tiny import save

FAMILY_OF = {
    "image_text": ("llava", "blip2"),
    "vision_encoder_decoder": ("captioner", "donut"),
    "processor": ("bert", "t5", "classifier", "clip", "vilt-vqa", "mllama"),
    "blip": ("blip",),
    "blip_vqa": ("blip-vqa",),
}


@pytest.mark.parametrize("kind", FAMILY_OF)
def test_each_checkpoint_goes_to_its_family(kind, tmp_path):
    for name in FAMILY_OF[kind]:
        family = load_family(save(name, tmp_path / name))
        assert family.name == kind and family.title == f"{type(family.model).__name__} ({name})"
        assert not family.model.training and {p.dtype for p in family.model.parameters()} == {torch.float32}


def test_the_type_of_a_checkpoint_that_is_not_loaded(tmp_path):
    assert [type_of(str(save(name, tmp_path / name))) for name in ("mplug", "git")] == ["mplug", "git"]
    assert type_of(None) == "blip" and type_of("owner/name") is None
    (tmp_path / "git" / "config.json").write_text("[")
    with pytest.raises(UserError, match=r"config\.json: not valid JSON"):
        type_of(str(tmp_path / "git"))


def test_the_default_is_the_mini_blip():
    family = load_family()
    assert family.name == MINI and family.title == "mini-BLIP" and family.opening
    assert load_family(CHECKPOINT).name == MINI, "so are the checkpoints of other seeds"
    assert load_family(CHECKPOINT).title.endswith(f" ({CHECKPOINT.name})")  # by its folder, it is any BLIP


def test_no_bar_while_weights_are_read(tmp_path, capsys):
    folder = save("bert", tmp_path)
    logging.enable_progress_bar()  # commands that ran in this process may have turned it off
    capsys.readouterr()
    load_family(folder)
    assert "Loading weights" not in capsys.readouterr().err and logging.is_progress_bar_enabled()


def test_a_model_that_writes_no_answers_says_so(tmp_path):
    family, sample = load_family(save("t5", tmp_path)), Sample("one", None, "a", "red")
    for way in (Decoding(), Ranking(("a",))):
        with pytest.raises(UserError, match=rf"\({tmp_path.name}\) writes no answers"):
            family.answer([sample], way)
    with pytest.raises(UserError, match="side 48: .* leave the side out"):
        family.resize(48)


# ---- damaged folders -------------------------------------------------------------------------------------


def change(folder, **fields):
    """Set fields of a folder's configuration."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def change_weights(folder, do):
    state = load_file(folder / "model.safetensors")
    do(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def cut(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


QUERY = "encoder.layer.1.attention.self.query.weight"
#: Which model, what is done to its folder, and what is said.
DAMAGES = {
    "no config": ("blip", lambda folder: (folder / "config.json").unlink(), "no folder with a config.json"),
    "no weights": (
        "blip",
        lambda folder: (folder / "model.safetensors").unlink(),
        "check the folder's files",
    ),
    "no tokenizer": ("blip", lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
    "cut config": ("llava", lambda folder: cut(folder / "config.json"), "check the folder's files"),
    "cut weights": ("llava", lambda folder: cut(folder / "model.safetensors"), "check the folder's files"),
    "unknown type": ("blip", lambda folder: change(folder, model_type="x"), "check the folder's files"),
    "layers too many": (
        "t5",
        lambda folder: change(folder, num_decoder_layers=3),
        r"\d+ weights are missing",
    ),
    "another size": ("bert", lambda folder: change(folder, hidden_size=8), "--model"),
    "a weight is missing": (
        "bert",
        lambda folder: change_weights(folder, lambda state: state.pop(QUERY)),
        f"1 weights are .* first {QUERY}",
    ),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_folder_is_one_line(how, tmp_path):
    """transformers draws missing weights at random, in silence."""
    name, damage, match = DAMAGES[how]
    folder = save(name, tmp_path)
    damage(folder)
    with pytest.raises(UserError, match=match) as error:
        load_family(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize("kind", [hf.BertForMaskedLM, hf.BertModel])
def test_another_tasks_head_does_not_matter(kind, tmp_path):
    folder = save("bert", tmp_path)
    kind(hf.BertConfig(**TEXT)).save_pretrained(folder)
    change(folder, architectures=["BertForTokenClassification"])
    assert type(load_family(folder).model).__name__ == "BertForTokenClassification"


# ---- names -----------------------------------------------------------------------------------------------


def test_an_unknown_name_is_one_line(monkeypatch, capsys):
    """What the hub does not give is no reason to allow a download."""
    with pytest.raises(UserError, match="no folder with a config.json, and no hub name"):
        load_family("nowhere")
    with pytest.raises(UserError, match=r"allow the download \(--model hub:no-such-owner/no-such-model\)"):
        load_family("no-such-owner/no-such-model")

    def offline(*_, **__):
        raise OSError("We couldn't connect")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", offline)
    with pytest.raises(UserError, match="couldn't connect.*check the name and the network") as error:
        load_family("no-such-owner/no-such-model", download=True)
    assert "hub:" not in str(error.value)
    assert capsys.readouterr().err == "looking for no-such-owner/no-such-model on the hub\n"


def in_hub_cache(folder: Path, cache: Path, name: str) -> None:
    """The folder as the hub's cache holds a model of this name."""
    place = cache / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, place / "snapshots" / ("0" * 40))


def unreachable():
    raise httpx.ConnectError("no network")


@pytest.mark.parametrize("name", ["blip-vqa", "captioner"])
def test_the_hub_is_asked_for_files_with_download_and_only_then(name, monkeypatch, tmp_path):
    in_hub_cache(save(name, tmp_path / name), tmp_path / "hub", "some/one")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("httpx.Client.send", lambda *_, **__: unreachable())
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    cached_files, asked = hub.cached_files, []

    def noted(*words, local_files_only=False, **more):
        asked.append(local_files_only)
        return cached_files(*words, local_files_only=True, **more)

    monkeypatch.setattr(hub, "cached_files", noted)
    for download in (False, True):
        asked.clear()
        assert load_family("some/one", download=download).title.endswith("(one)")
        assert set(asked) == {not download} and len(asked) > 3


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


def test_shipped_models_go_by_their_names(stands_in, capsys):
    named = load_family("mini-mplug")
    assert (named.name, named.title) == ("mplug", "mini-mPLUG") and type_of("mini-mplug") == "mplug"
    assert weights_digest("mini-mplug") == weights_digest(stands_in / "mini-mplug") != weights_digest()
    default = load_family(DEFAULT)
    assert (default.name, default.title, default.opening) == (MINI, "mini-BLIP", load_family().opening)
    assert weights_digest(DEFAULT) == weights_digest() and type_of(DEFAULT) == "blip"
    assert capsys.readouterr().err == ""


def test_a_folder_of_a_shipped_models_name_is_told_apart_by_its_path(stands_in):
    """Else what a command computes would depend on the directory that it is called in."""
    save("git", Path("mini-mplug"))
    assert load_family("mini-mplug").name == "mplug"
    for own in ("./mini-mplug", Path("mini-mplug")):
        assert load_family(own).name == "image_text" and load_family(own).title.endswith("(mini-mplug)")
        assert weights_digest(own) != weights_digest("mini-mplug")


def test_a_shipped_model_that_is_gone(monkeypatch, tmp_path):
    monkeypatch.setattr(shipped, "CHECKPOINTS", tmp_path)
    with pytest.raises(UserError, match="make it again with `attngraph pretrain --model mini-mplug`"):
        load_family("mini-mplug")
