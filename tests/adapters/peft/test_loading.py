"""What cannot be loaded is refused in one line, and the model is as before."""

import json
import math
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from adapters.peft import load_adapter
from adapters.peft.loading import read_config
from attngraph import UserError
from tests.adapters.peft.helpers import put, run
from tests.adapters.peft_models import FAMILIES

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def cut(path, bytes_left):
    path.write_bytes(path.read_bytes()[:bytes_left])


def change_weights(folder, change):
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)


def change_config(folder, **changes):
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGE = {
    "no folder": (
        lambda f: shutil.rmtree(f),
        "adapter_config.json: no such file; give the folder that save_pretrained",
    ),
    "no weights": (
        lambda f: (f / WEIGHTS).unlink(),
        "adapter_model.safetensors: no such file; give the folder",
    ),
    "weights cut": (lambda f: cut(f / WEIGHTS, -40), "adapter_model.safetensors cannot be read"),
    "weights cut in the header": (lambda f: cut(f / WEIGHTS, 70), "adapter_model.safetensors cannot be read"),
    "empty weights": (lambda f: cut(f / WEIGHTS, 0), "adapter_model.safetensors cannot be read"),
    "text": (
        lambda f: (f / WEIGHTS).write_text("text, but long enough to look like weights"),
        "adapter_model.safetensors cannot be read",
    ),
    "empty settings": (lambda f: cut(f / CONFIG, 0), "not a readable adapter configuration"),
    "settings that are no JSON": (lambda f: cut(f / CONFIG, 30), "not a readable adapter configuration"),
    "settings of another kind": (
        lambda f: (f / CONFIG).write_text("[1, 2]"),
        "not a readable adapter configuration",
    ),
    "no type": (lambda f: (f / CONFIG).write_text("{}"), "not a (readable|graph) adapter"),
    "an unknown scheme": (
        lambda f: change_config(f, gnn="gat"),
        "adapter_config.json: unknown gnn 'gat': choose one",
    ),
    "a number that is not finite": (
        lambda f: change_weights(f, lambda state: next(iter(state.values())).view(-1)[:1].fill_(math.nan)),
        "adapter_model.safetensors holds numbers that are not finite .base_model.*: restore it, or train",
    ),
    "a weight too few": (
        lambda f: change_weights(f, lambda state: state.pop(next(x for x in state if "p_logit" in x))),
        "1 missing .first .*p_logit.stored.; use the base model that the adapter",
    ),
    "a weight too many": (
        lambda f: change_weights(f, lambda state: state.update({"base_model.model.more": torch.zeros(2)})),
        "do not fit this GPT2LMHeadModel: 1 left over .first base_model.model.more.; use the base",
    ),
    "another shape": (
        lambda f: change_weights(
            f, lambda state: state.update({next(x for x in state if "down.bias" in x): torch.zeros(7)})
        ),
        "do not fit this GPT2LMHeadModel: 1 of another shape .first .*down.bias",
    ),
    "no weight at all": (
        lambda f: save_file({}, f / WEIGHTS),
        "do not fit this GPT2LMHeadModel: 20 missing .first ",
    ),
    "settings that are null": (
        lambda f: (f / CONFIG).write_text("null"),
        "not a readable adapter configuration",
    ),
    "settings nested without end": (
        lambda f: (f / CONFIG).write_text("[" * 100_000 + "]" * 100_000),
        "not a readable adapter configuration .RecursionError",
    ),
    "settings that are no text": (
        lambda f: (f / CONFIG).write_bytes(b"\xff\xfe\x00"),
        "not a readable adapter configuration",
    ),
    "a setting of another type": (
        lambda f: change_config(f, learn_p="no"),
        "adapter_config.json: pgnn: learn_p must be True or False, got 'no'",
    ),
    "a place that is not there": (
        lambda f: change_config(f, target_modules=["h.0.attn", "h.7.attn"]),
        "target_modules: 'h.7.attn' matches no attention layer of GPT2LMHeadModel",
    ),
}


@pytest.fixture
def saved(tmp_path):
    put("gpt2", join="blend").save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_adapter(how, saved):
    damage, message = DAMAGE[how]
    damage(saved)
    model, batch = FAMILIES["gpt2"].make(), FAMILIES["gpt2"].batch()
    kinds, want = [type(module) for module in model.modules()], run(model, batch)
    with pytest.raises(UserError, match=message) as caught:
        load_adapter(model, saved)
    assert "\n" not in str(caught.value) and str(saved) in str(caught.value)
    assert [type(module) for module in model.modules()] == kinds and torch.equal(run(model, batch), want)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("folder", ["", "\0", "a" * 5000, "https://x"])
def test_a_name_that_is_no_folder(folder):
    with pytest.raises(UserError, match="give the folder that save_pretrained wrote"):
        load_adapter(FAMILIES["gpt2"].make(), folder)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_another_models_adapter(family, saved):
    message = "do not fit this .*: .* missing .*, 20 left over .*; use the base model that the adapter"
    for load in (load_adapter, PeftModel.from_pretrained):
        with pytest.raises(UserError, match=message) as caught:
            load(FAMILIES[family].make(), saved)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "how", ["no weight at all", "a weight too few", "a weight too many", "another shape"]
)
def test_peft_loads_no_part_of_an_adapter(how, saved):
    """Neither into a new model nor over an adapter that is there already, as when a Trainer resumes."""
    model = PeftModel.from_pretrained(FAMILIES["gpt2"].make(), saved)
    damage, message = DAMAGE[how]
    damage(saved)
    with pytest.raises(UserError, match=message):
        PeftModel.from_pretrained(FAMILIES["gpt2"].make(), saved)
    with pytest.raises(UserError, match=message):
        model.load_adapter(saved, "default")
    with pytest.raises(UserError, match=message):
        model.load_adapter(saved, "default", ignore_mismatched_sizes=True)


def test_a_module_to_save_is_missing(tmp_path):
    put("gpt2", modules_to_save=["ln_f"]).save_pretrained(tmp_path)
    change_weights(tmp_path, lambda state: state.pop("base_model.model.transformer.ln_f.bias"))
    model, batch = FAMILIES["gpt2"].make(), FAMILIES["gpt2"].batch()
    want = run(model, batch)
    with pytest.raises(UserError, match="the saved weights of the adapter lack .*ln_f.bias: use the base"):
        load_adapter(model, tmp_path)
    assert torch.equal(run(model, batch), want)


@pytest.mark.parametrize("beside", ["LoRA", "a graph adapter"])
def test_other_adapters_stay_after_an_error(beside, saved):
    base, batch = FAMILIES["llama"].make(), FAMILIES["llama"].batch()
    if beside == "LoRA":
        model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    else:
        model = put("llama")
        base = model.get_base_model()
    want, implementation = run(model.eval(), batch), base.config._attn_implementation
    with pytest.raises(UserError, match="do not fit this "):
        load_adapter(model, saved, "second")
    assert torch.equal(run(model, batch), want) and "second" not in base.peft_config
    assert base.config._attn_implementation == implementation
    assert any(p.requires_grad for p in model.parameters())
    assert model.unload().config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["b", "model"])
def test_a_name_inside_other_names(name, saved):
    """PEFT reports every key that holds the name's letters as missing."""
    model = load_adapter(FAMILIES["gpt2"].make(), saved)
    want = run(model.eval(), FAMILIES["gpt2"].batch())
    again = load_adapter(model, saved, name).eval()
    assert torch.equal(run(again, FAMILIES["gpt2"].batch()), want)


def test_another_size(saved, make_decoder):
    blip = make_decoder()
    get_peft_model(blip, read_config(saved)).save_pretrained(saved)
    for changes in (dict(num_hidden_layers=1), dict(num_hidden_layers=3), dict(hidden_size=32)):
        with pytest.raises(UserError, match="do not fit this "):
            load_adapter(make_decoder(**changes), saved)
    assert load_adapter(make_decoder(1), saved, adapter_name="mine", is_trainable=True).active_adapters == [
        "mine"
    ]


def test_another_method(tmp_path):
    lora = LoraConfig(r=2, target_modules=["c_attn"])
    get_peft_model(FAMILIES["gpt2"].make(), lora).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match="type LORA, not a graph adapter: load it with peft.PeftModel.from_pretrained"
    ):
        load_adapter(FAMILIES["gpt2"].make(), tmp_path)


@pytest.mark.parametrize("trainable", [False, True])
def test_a_loaded_adapter_is_trained_further_or_not(trainable, saved):
    model = load_adapter(FAMILIES["gpt2"].make(), saved, is_trainable=trainable)
    learn = [name for name, p in model.named_parameters() if p.requires_grad]
    assert bool(learn) == trainable and all(".gnn_adapter." in name for name in learn)
