"""Each checkpoint goes to its family; what cannot be loaded, or does not belong together, is one line."""

import json
from itertools import cycle
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from attngraph.errors import UserError
from experiments.base import shipped
from experiments.base.shipped import DEFAULT
from experiments.models import Decoding, Ranking, Sample, load_family, loading
from experiments.models.blip import MINI
from experiments.models.loading import type_of
from experiments.models.mini_blip import CHECKPOINT
from experiments.models.weights import weights_digest
from tests.attngraph.reading.zoo import TEXT
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


# ---- damaged folders -------------------------------------------------------------------------------------


def change(folder, *path, to):
    """Set a field of a folder's configuration."""
    config = json.loads((folder / "config.json").read_text())
    part = config
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = to
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder, do):
    state = load_file(folder / "model.safetensors")
    do(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def refused(folder, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        load_family(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def _cut(file):
    def damage(folder):
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])

    return damage


#: What is done to a folder -> what is said.
DAMAGES = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "no folder with a config.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "check the folder's files"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
    "cut config": (_cut("config.json"), "check the folder's files"),
    "cut weights": (_cut("model.safetensors"), "check the folder's files"),
    "cut tokenizer": (_cut("tokenizer.json"), "check the folder's files"),
    "cut generation": (_cut("generation_config.json"), "generation_config.json.*check the folder's files"),
    "unknown type": (lambda folder: change(folder, "model_type", to="nonesuch"), "check the folder's files"),
    "another type": (
        lambda folder: change(folder, "model_type", to="bert"),
        "config.json has the model_type bert, whose models are no .*: restore it",
    ),
}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize(
    "name",
    ["blip", "llava", *(pytest.param(name, marks=pytest.mark.slow) for name in ("blip-vqa", "captioner"))],
)
def test_a_damaged_folder_is_one_line(name, how, tmp_path):
    folder, (damage, match) = save(name, tmp_path), DAMAGES[how]
    damage(folder)
    refused(folder, match)


def test_a_damaged_generation_config_of_mplug_is_one_line(tmp_path):
    """Whose model's class is no transformers' own."""
    folder = save("mplug", tmp_path)
    (folder / "generation_config.json").write_text("[]")
    refused(folder, "check the folder's files")
    (folder / "generation_config.json").unlink()
    change(folder, "model_type", to="bert")
    refused(folder, "--model")


LAYERS = {
    "bert": ("num_hidden_layers",),
    "gpt2": ("n_layer",),
    "t5": ("num_decoder_layers",),
    "classifier": ("num_hidden_layers",),
    "clip": ("vision_config", "num_hidden_layers"),
    "blip": ("text_config", "num_hidden_layers"),
    "blip-vqa": ("vision_config", "num_hidden_layers"),
    "llava": ("text_config", "num_hidden_layers"),
    "captioner": ("encoder", "num_hidden_layers"),
}


@pytest.mark.parametrize("name, layers", list(zip(LAYERS, cycle([0, 1, 3]))))
def test_another_number_of_layers_is_refused(name, layers, tmp_path):
    """transformers leaves the file's further layers out, and draws missing ones at random."""
    folder = save(name, tmp_path)
    change(folder, *LAYERS[name], to=layers)
    what = "missing or of another shape" if layers == 3 else "of layers that config.json does not describe"
    refused(folder, rf"\d+ weights {what}, first .*\d")


def test_a_part_of_a_layer_that_the_configuration_switched_off(tmp_path):
    folder = save("llava", tmp_path)
    extra = "model.language_model.layers.0.self_attn.q_proj.bias"
    name = next(
        key
        for key in load_file(folder / "model.safetensors")
        if key.endswith("layers.0.self_attn.q_proj.weight")
    )
    change_weights(folder, lambda state: state.update({name.replace(".weight", ".bias"): torch.zeros(8)}))
    with pytest.raises(UserError, match=f"1 weights of layers .* first {extra}"):
        load_family(folder)


@pytest.mark.parametrize("field", ["hidden_size", "intermediate_size", "vocab_size"])
def test_another_size_is_refused(field, tmp_path):
    folder = save("bert", tmp_path)
    change(folder, field, to=8)
    with pytest.raises(UserError, match=str(folder)) as error:
        load_family(folder)
    assert "\n" not in str(error.value)


def as_bert(folder, kind: type[hf.PreTrainedModel], architecture: str):
    """Weights of one class in a folder whose configuration names another."""
    save("bert", folder)
    kind(hf.BertConfig(**TEXT)).save_pretrained(folder)
    change(folder, "architectures", to=[architecture])
    return folder


@pytest.mark.parametrize(
    "kind, architecture",
    [
        (hf.BertForMaskedLM, "BertModel"),
        (hf.BertForPreTraining, "BertForSequenceClassification"),
        (hf.BertModel, "BertForTokenClassification"),
        (hf.BertForQuestionAnswering, "BertForMaskedLM"),
        (hf.BertForMaskedLM, "BertForMaskedLM"),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_another_tasks_head_does_not_matter(kind, architecture, tmp_path):
    family = load_family(as_bert(tmp_path, kind, architecture))
    assert type(family.model).__name__ == architecture


def test_weights_of_old_versions_are_left_out(tmp_path):
    """Masks and positions that were saved once, and that the model makes itself."""
    folder = save("gpt2", tmp_path)
    more = {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 4, 4),
        "transformer.h.0.attn.masked_bias": torch.ones(1),
    }
    change_weights(folder, lambda state: state.update(more))
    assert load_family(folder).model
    folder = save("bert", tmp_path / "bert")
    change_weights(folder, lambda state: state.update({"embeddings.position_ids": torch.arange(4)[None]}))
    assert load_family(folder).model


def test_a_base_model_must_be_whole_even_where_nothing_is_written(tmp_path):
    folder = save("bert", tmp_path)
    change_weights(folder, lambda state: state.pop("encoder.layer.1.attention.self.query.weight"))
    with pytest.raises(
        UserError, match="1 weights missing .* first encoder.layer.1.attention.self.query.weight"
    ):
        load_family(folder)
    change_weights(save("bert", tmp_path / "pooler"), lambda state: state.pop("pooler.dense.weight"))
    assert load_family(tmp_path / "pooler").model


@pytest.mark.parametrize("name", ["llava", "captioner", "bert"])
def test_families_whose_pictures_have_no_other_side(name, tmp_path):
    with pytest.raises(UserError, match="side 48: .* leave the side out"):
        load_family(save(name, tmp_path), side=48)


# ---- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "no folder with a config.json, and no hub name"),
        (
            "no-such-owner/no-such-model",
            r"cannot be loaded .*allow the download \(--model hub:no-such-owner/no-such-model\)",
        ),
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
    assert "hub:" not in str(error.value)
    assert capsys.readouterr().err == "looking for no-such-owner/no-such-model on the hub\n"


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
