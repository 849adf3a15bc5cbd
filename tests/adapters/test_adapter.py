"""Saving and loading adapters."""

import pytest
import torch
from safetensors.torch import save_file

from adapters.adapter import CONFIG_KEY, read_adapter
from adapters.blip import attach
from adapters.config import AdapterConfig
from attngraph.errors import UserError

CONFIGS = [
    AdapterConfig("pgnn", {"p": 1.25, "learn_mu": True}, "blend"),
    AdapterConfig("gcn", join="gated"),
    AdapterConfig("gcnii", {"steps": 2}, "replace", positions=("cross", "ffn"), top_k=3),
]


def trained(model, config, seed=0):
    adapters = attach(model, config)
    torch.manual_seed(seed)
    for parameter in adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return adapters


def logits(model, words, image_states):
    with torch.no_grad():
        return model(words(), encoder_hidden_states=image_states()).logits


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.gnn}-{c.join}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_saved_adapter_comes_back_exactly(config, dtype, make_decoder, words, image_states, tmp_path):
    def states():
        return image_states().to(dtype)

    path = tmp_path / "new folder" / "adapter.safetensors"
    model = make_decoder().to(dtype)
    saved = trained(model, config)
    saved.save(path)
    read, _ = read_adapter(path)
    assert read == config
    other = make_decoder().to(dtype)
    loaded = attach(other, read)
    loaded.load(path)
    assert all(torch.equal(x, saved.state_dict()[k]) for k, x in loaded.state_dict().items())
    # Single numbers (p, a share) stay in float32: bfloat16 would swallow their steps.
    assert all(x.dtype == (dtype if x.dim() else torch.float32) for x in loaded.state_dict().values())
    assert torch.equal(logits(other, words, states), logits(model, words, states))
    assert [p.name for p in path.parent.iterdir()] == ["adapter.safetensors"]  # nothing half-written is left
    saved.save(path)  # over an older one


@pytest.fixture
def saved(make_decoder, tmp_path):
    trained(make_decoder(), CONFIGS[0]).save(tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_a_missing_file(tmp_path, make_decoder):
    adapters = attach(make_decoder(), CONFIGS[0])
    for read in (read_adapter, adapters.load):
        with pytest.raises(UserError, match="none.safetensors: no such adapter file"):
            read(tmp_path / "none.safetensors")


def damage(path, how):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[:-40])
    elif how == "cut in the header":
        path.write_bytes(content[:70])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not an adapter at all, but long enough to look like one")
    elif how == "a folder":
        path.unlink(), path.mkdir()
    elif how == "no settings":
        save_file({"x": torch.zeros(2)}, path)
    elif how == "settings of another kind":
        save_file({"x": torch.zeros(2)}, path, metadata={CONFIG_KEY: "[1, 2]"})
    elif how == "settings that are no JSON":
        save_file({"x": torch.zeros(2)}, path, metadata={CONFIG_KEY: "{"})
    elif how == "an unknown field":
        save_file({"x": torch.zeros(2)}, path, metadata={CONFIG_KEY: '{"flavour": 1}'})
    elif how == "an unknown scheme":
        save_file({"x": torch.zeros(2)}, path, metadata={CONFIG_KEY: '{"gnn": "gat"}'})


@pytest.mark.parametrize(
    "how",
    [
        "cut",
        "cut in the header",
        "empty",
        "text",
        "a folder",
        "no settings",
        "settings of another kind",
        "settings that are no JSON",
        "an unknown field",
        "an unknown scheme",
    ],
)
def test_a_damaged_file(how, saved, make_decoder):
    damage(saved, how)
    adapters = trained(make_decoder(), CONFIGS[0], seed=1)
    before = {k: v.clone() for k, v in adapters.state_dict().items()}
    with pytest.raises(UserError, match="a.safetensors") as caught:
        adapters.load(saved)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in adapters.state_dict().items())


def test_another_adapters_file(saved, make_decoder):
    adapters = attach(make_decoder(), AdapterConfig("appnp"))
    with pytest.raises(
        UserError, match="holds a pgnn/blend adapter with other settings than this appnp/blend one"
    ):
        adapters.load(saved)


def test_another_models_file(saved, make_decoder):
    for changes in (
        dict(num_hidden_layers=1),
        dict(num_hidden_layers=3),
        dict(hidden_size=32, intermediate_size=24),
    ):
        adapters = attach(make_decoder(**changes), CONFIGS[0])
        before = {k: v.clone() for k, v in adapters.state_dict().items()}
        with pytest.raises(UserError, match="do not fit this model"):
            adapters.load(saved)
        assert all(torch.equal(v, before[k]) for k, v in adapters.state_dict().items())


def test_weights_survive_taking_the_adapters_out(make_decoder, words, image_states, tmp_path):
    model = make_decoder()
    adapters = trained(model, CONFIGS[0])
    want = logits(model, words, image_states)
    adapters.detach()
    adapters.save(tmp_path / "late.safetensors")
    attach(model, CONFIGS[0]).load(tmp_path / "late.safetensors")
    assert torch.equal(logits(model, words, image_states), want)


def test_a_folder_is_no_file_to_save_to(make_decoder, tmp_path):
    adapters = attach(make_decoder(), AdapterConfig())
    with pytest.raises(UserError, match="cannot be written"):
        adapters.save(tmp_path)
    assert not list(tmp_path.parent.glob("*.part"))
