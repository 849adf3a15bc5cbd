"""Saved adapters come back exactly; what cannot be loaded ends in one line, and the model is as before."""

import json
import math
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from attngraph import UserError
from attngraph.adapters.peft import load_adapter
from tests.adapters.peft.helpers import config, put, run
from tests.adapters.peft_models import FAMILIES

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BATCH = FAMILIES["gpt2"].batch()


def gpt2():
    return FAMILIES["gpt2"].make()


@pytest.fixture
def saved(tmp_path):
    put("gpt2", join="blend").save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("upcast, low_memory", [(True, False), (False, True)])
def test_saving_in_half_precision(upcast, low_memory, tmp_path):
    """PEFT trains a half-precision model's adapters in float32 by default; single numbers always are."""

    def base():
        return FAMILIES["llama"].make().bfloat16()

    model = get_peft_model(base(), config(), autocast_adapter_dtype=upcast).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("stored"):
                p += 0.000123
    learn = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in learn.values() if p.dim() > 1} == {torch.float32 if upcast else torch.bfloat16}
    assert {p.dtype for name, p in learn.items() if name.endswith("stored")} == {torch.float32}
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(
        base(), tmp_path, autocast_adapter_dtype=upcast, low_cpu_mem_usage=low_memory
    )
    assert torch.equal(run(loaded, FAMILIES["llama"].batch()), run(model, FAMILIES["llama"].batch()))
    again = load_adapter(base(), tmp_path)
    assert {p.dtype for name, p in again.named_parameters() if ".gnn_adapter." in name} == {torch.float32}


def test_over_older_ones_under_other_names_and_to_be_trained_further(saved):
    """PEFT reports every key that holds the letters of the adapter's name as missing."""
    model = put("gpt2", seed=2)
    model.save_pretrained(saved)
    for trainable, name in ((False, "b"), (True, "model")):
        again = load_adapter(gpt2(), saved, name, is_trainable=trainable)
        assert torch.equal(run(again.eval(), BATCH), run(model, BATCH))
        learn = [n for n, p in again.named_parameters() if p.requires_grad]
        assert bool(learn) == trainable and all(f".gnn_adapter.{name}." in n for n in learn)
    beside = load_adapter(again, saved, "third").eval()
    assert torch.equal(run(beside, BATCH), run(model, BATCH))


# ---- what cannot be loaded ----------------------------------------------------------------------------


def cut(path, bytes_left):
    path.write_bytes(path.read_bytes()[:bytes_left])


def change_weights(folder, change):
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)


def change_config(folder, **changes):
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def first(state, part=""):
    return next(name for name in state if part in name)


DAMAGE = {
    "no folder": (shutil.rmtree, "adapter_config.json: no such file; pass the folder that save_pretrained"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "adapter_model.safetensors: no such file; pass the"),
    "weights cut": (lambda f: cut(f / WEIGHTS, -40), "adapter_model.safetensors cannot be read"),
    "settings that are no JSON": (lambda f: cut(f / CONFIG, 30), "not a readable adapter configuration"),
    "no type": (lambda f: (f / CONFIG).write_text("{}"), "not a (readable|graph) adapter"),
    "an unknown scheme": (lambda f: change_config(f, gnn="gat"), "adapter_config.json: unknown gnn 'gat': "),
    "another scheme": (lambda f: change_config(f, learn_p=False), "2 left over .first .*p_logit"),
    "a number that is not finite": (
        lambda f: change_weights(f, lambda state: state[first(state)].view(-1)[:1].fill_(math.nan)),
        "adapter_model.safetensors holds numbers that are not finite .base_model.*: restore it, or train",
    ),
    "a weight too few": (
        lambda f: change_weights(f, lambda state: state.pop(first(state, "p_logit"))),
        "1 missing .first .*p_logit.stored.; use the base model that the adapter",
    ),
    "another shape": (
        lambda f: change_weights(f, lambda x: x.update({first(x, "down.bias"): torch.zeros(7)})),
        "do not fit this GPT2LMHeadModel: 1 of another shape .first .*down.bias",
    ),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_adapter(how, saved):
    damage, message = DAMAGE[how]
    damage(saved)
    model = gpt2()
    kinds, want = [type(module) for module in model.modules()], run(model, BATCH)
    with pytest.raises(UserError, match=message) as caught:
        load_adapter(model, saved)
    assert "\n" not in str(caught.value) and str(saved) in str(caught.value)
    assert [type(module) for module in model.modules()] == kinds and torch.equal(run(model, BATCH), want)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("how", ["a weight too few", "another shape"])
def test_peft_loads_no_part_of_an_adapter(how, saved):
    """Neither into a new model nor over an adapter that is there already, as when a Trainer resumes."""
    model = PeftModel.from_pretrained(gpt2(), saved)
    damage, message = DAMAGE[how]
    damage(saved)
    for load in (
        lambda: PeftModel.from_pretrained(gpt2(), saved),
        lambda: model.load_adapter(saved, "default"),
        lambda: model.load_adapter(saved, "default", ignore_mismatched_sizes=True),
    ):
        with pytest.raises(UserError, match=message):
            load()


def test_another_models_adapter(saved):
    """Adapters that are there already stay after the error."""
    model, batch = put("llama"), FAMILIES["llama"].batch()
    base = model.get_base_model()
    want, implementation = run(model, batch), base.config._attn_implementation
    message = "do not fit this .*: .* missing .*, 20 left over .*; use the base model that the adapter"
    with pytest.raises(UserError, match=message):
        load_adapter(model, saved, "second")
    assert torch.equal(run(model, batch), want) and "second" not in base.peft_config
    assert base.config._attn_implementation == implementation
    assert any(p.requires_grad for p in model.parameters())
    assert model.unload().config._attn_implementation == "sdpa"


def test_another_method_and_a_name_that_is_no_folder(tmp_path):
    lora = LoraConfig(r=2, target_modules=["c_attn"])
    get_peft_model(gpt2(), lora).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="type LORA, not a graph adapter: load it with peft.PeftModel.from_"):
        load_adapter(gpt2(), tmp_path)
    for folder in ("", "a" * 5000):
        with pytest.raises(UserError, match="pass the folder that save_pretrained or a run .* wrote$"):
            load_adapter(gpt2(), folder)
