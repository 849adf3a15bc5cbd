"""Saved adapters come back exactly."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from adapters.peft import learned_scalars, load_adapter
from attngraph import UserError
from tests.adapters.peft.helpers import SCHEME_ARGS, close, config, put, run
from tests.adapters.peft_models import FAMILIES


@pytest.mark.parametrize(
    "family, gnn, settings",
    [
        *((family, "pgnn", {"learn_mu": True}) for family in FAMILIES),
        *(("gpt2", gnn, {}) for gnn in SCHEME_ARGS),
        ("llama", "pgnn", {"join": "gated", "top_k": 3}),
        ("bert", "pgnn", {"join": "replace", "rescale": True}),
        ("llama", "pgnn", {"join": "replace", "shared": True}),
        ("blip", "gcnii", {"join": "replace", "positions": ("cross", "ffn"), "top_k": 3}),
        ("llama", "appnp", {"target_modules": ["layers.1.self_attn"], "positions": "self"}),
    ],
    ids=str,
)
def test_a_saved_adapter_comes_back_exactly(family, gnn, settings, tmp_path):
    model, batch = put(family, gnn, **settings), FAMILIES[family].batch()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("stored"):
                p += 0.0123
    model.save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    for low_memory in (False, True):
        loaded = PeftModel.from_pretrained(FAMILIES[family].make(), tmp_path, low_cpu_mem_usage=low_memory)
        assert torch.equal(run(loaded, batch), run(model, batch))
    kept, given = (x.peft_config["default"].settings() for x in (loaded, model))
    assert kept.to_dict() == given.to_dict()
    assert torch.equal(run(load_adapter(FAMILIES[family].make(), tmp_path).eval(), batch), run(model, batch))
    named = PeftModel.from_pretrained(
        FAMILIES[family].make(), tmp_path, adapter_name="mine", is_trainable=True
    )
    assert torch.equal(run(named.eval(), batch), run(model, batch))
    assert {n.replace(".mine.", ".", 1) for n, p in named.named_parameters() if p.requires_grad} == {
        n.replace(".default.", ".", 1) for n, p in model.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize("upcast", [True, False])
@pytest.mark.parametrize("low_memory", [False, True])
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


@pytest.mark.parametrize("settings", [{"learn_mu": True}, {"shared": True}], ids=str)
def test_files_from_before_single_numbers_were_scaled(settings, tmp_path):
    """They hold the values themselves, without dimensions."""
    model, batch = put("llama", p=1.3, **settings), FAMILIES["llama"].batch()
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    state, values = load_file(file), learned_scalars(model)
    names = [name for name in state if name.endswith(".stored")]
    assert len(names) == len(model.base_model.layers()) * len(values) / 2
    save_file(
        {n.removesuffix(".stored"): 10 * x.reshape(()) if n in names else x for n, x in state.items()}, file
    )
    for loaded in (
        load_adapter(FAMILIES["llama"].make(), tmp_path),
        PeftModel.from_pretrained(FAMILIES["llama"].make(), tmp_path, low_cpu_mem_usage=True),
    ):
        assert learned_scalars(loaded) == pytest.approx(values, rel=1e-6)
        close(run(loaded.eval(), batch), run(model, batch), 1e-6)
    again = put("llama", p=1.5, **settings)
    before = {
        name.removesuffix(".stored"): 10 * x.reshape(()) if name.endswith(".stored") else x
        for name, x in model.state_dict().items()
    }
    again.load_state_dict(before)
    close(run(again, batch), run(model, batch), 1e-6)


def test_other_weights_are_noticed(tmp_path):
    put("gpt2", "gcn").save_pretrained(tmp_path)
    config_file = tmp_path / "adapter_config.json"
    config_file.write_text(
        json.dumps(json.loads(config_file.read_text()) | {"gnn": "pgnn", "normalize": None})
    )
    with pytest.raises(UserError, match="2 missing .first .*p_logit"):
        PeftModel.from_pretrained(FAMILIES["gpt2"].make(), tmp_path)


def test_weights_can_be_saved_over_older_ones(tmp_path):
    batch = FAMILIES["gpt2"].batch()
    put("gpt2", seed=1).save_pretrained(tmp_path)
    model = put("gpt2", seed=2)
    model.save_pretrained(tmp_path)
    assert torch.equal(run(load_adapter(FAMILIES["gpt2"].make(), tmp_path).eval(), batch), run(model, batch))


def test_the_same_file_with_and_without_lora(tmp_path):
    """Names of saved weights do not tell whether LoRA is on the same projection."""
    batch = FAMILIES["llama"].batch()

    def with_lora():  # which starts at zero
        lora = LoraConfig(r=2, target_modules=["o_proj", "down_proj"])
        return get_peft_model(FAMILIES["llama"].make(), lora)

    alone = put("llama")
    alone.save_pretrained(tmp_path / "alone")
    beside = load_adapter(with_lora(), tmp_path / "alone", "graph").eval()
    assert torch.equal(run(beside, batch), run(alone, batch))
    beside.save_pretrained(tmp_path / "beside", selected_adapters=["graph"])
    again = load_adapter(FAMILIES["llama"].make(), tmp_path / "beside" / "graph").eval()
    assert torch.equal(run(again, batch), run(alone, batch))
