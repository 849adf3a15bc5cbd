"""Putting adapters into a model, switching between them, and the way back."""

import copy
import io

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import GenerationConfig

from attngraph import UserError, capture
from attngraph.adapters import GraphAdapterConfig
from attngraph.adapters.peft.layer import FeedForwardLayer, GraphLayer, OutputLayer
from attngraph.reading.state import find_state
from tests.adapters.peft.helpers import close, config, differ, put, run
from tests.adapters.peft_models import FAMILIES


def test_settings_reach_the_layers():
    batch = FAMILIES["llama"].batch()
    plain = run(put("llama"), batch)
    sparse = put("llama", backend="sparse")
    layers = [m.gnn_adapter["default"] for m in sparse.modules() if isinstance(m, OutputLayer)]
    assert len(layers) == 2 and {adapter.backend for adapter in layers} == {"sparse"}
    close(run(sparse, batch), plain, 1e-4)
    assert differ(run(put("llama", top_k=2), batch), plain)
    shared = put("llama", shared=True)
    assert sum(name.endswith("p_logit.stored") for name, _ in shared.named_parameters()) == 1
    assert sum(name.endswith("p_logit.stored") for name in shared.state_dict()) == 2


@pytest.mark.parametrize(
    "kind, method, beside", [(FeedForwardLayer, "make", True), (GraphLayer, "set_adapter", False)]
)
def test_adapters_that_went_in_before_a_failure_come_out_again(kind, method, beside, monkeypatch):
    model, batch = FAMILIES["bart"].make(), FAMILIES["bart"].batch()
    first = get_peft_model(model, config(positions="self")) if beside else None
    want, seen, own = run(model, batch), [], getattr(kind, method)

    def state():
        layers = (state for module in model.modules() if (state := find_state(module)) is not None)
        return (
            [(name, type(module)) for name, module in model.named_modules()],
            [(name, p.requires_grad) for name, p in model.named_parameters()],
            [list(state.listeners) for state in layers],
        )

    def fail_later(layer, *args, **options):
        seen.append(layer)
        if len(seen) == 3:
            raise MemoryError
        return own(layer, *args, **options)

    before = state()
    with monkeypatch.context() as patch:
        patch.setattr(kind, method, fail_later)
        with pytest.raises(MemoryError):
            get_peft_model(model, config(), adapter_name="second")
    assert len(seen) == 3 and state() == before and torch.equal(run(model, batch), want)
    if first is not None:
        assert first.active_adapters == ["default"]
        first.unload()
    assert model.config._attn_implementation == "sdpa" and all(p.requires_grad for p in model.parameters())


def test_an_adapter_that_is_added_in_new_places_while_adapters_are_off_is_off():
    family = FAMILIES["bert"]
    plain, batch = run(family.make(), family.batch()), family.batch()
    model = get_peft_model(family.make(), config(positions="self"))
    with model.disable_adapter():
        model.add_adapter("late", config(positions="ffn"))
        model.set_adapter("late")
        assert torch.equal(run(model.eval(), batch), plain)
    assert not torch.equal(run(model, batch), plain)


def test_a_model_without_numbers():
    """Its parameters are counted; a graph needs numbers, a feed-forward block does not."""
    with torch.device("meta"):
        model = FAMILIES["bert"].new()
    batch = {"input_ids": torch.ones(2, 3, dtype=torch.long, device="meta")}
    shape = model(**batch).logits.shape
    adapted = get_peft_model(model, config())
    with pytest.raises(UserError, match="attention.self runs on tensors without numbers"):
        adapted(**batch)
    with adapted.disable_adapter():
        assert adapted(**batch).logits.shape == shape
    assert get_peft_model(adapted.unload(), config(positions="ffn"))(**batch).logits.shape == shape
    with FakeTensorMode(), pytest.raises(UserError, match="runs on tensors without numbers"):
        capture(FAMILIES["bert"].new(), {"input_ids": torch.ones(2, 3, dtype=torch.long)})


def test_several_adapters_by_name(tmp_path):
    """Different schemes, joins and places in one model; each alone is the same as in a model of its own."""
    batch = FAMILIES["t5"].batch()
    settings = {
        "default": config("pgnn"),
        "narrow": config("appnp", join="replace", positions="cross", top_k=3),
        "wide": config("gcn", join="gated", reduction=2),
    }
    alone = {}
    for k, (name, one) in enumerate(settings.items()):
        torch.manual_seed(k)
        model = get_peft_model(FAMILIES["t5"].make(), one).eval()
        alone[name] = run(model, batch)
        model.save_pretrained(tmp_path / name)
    model = PeftModel.from_pretrained(FAMILIES["t5"].make(), tmp_path / "default", is_trainable=True).eval()
    for name in ("narrow", "wide"):
        model.load_adapter(tmp_path / name, name)
    for name in ("wide", "default", "narrow", "default"):
        model.set_adapter(name)
        assert torch.equal(run(model, batch), alone[name])
        learn = [n for n, p in model.named_parameters() if p.requires_grad]
        assert learn and all(f".gnn_adapter.{name}." in n for n in learn)
    model.save_pretrained(tmp_path / "all")
    again = PeftModel.from_pretrained(FAMILIES["t5"].make(), tmp_path / "all" / "wide")
    assert torch.equal(run(again, batch), alone["wide"])
    with pytest.raises(UserError, match="default and wide can't run together"):
        model.base_model.set_adapter(["default", "wide"])
    model.delete_adapter("narrow")
    assert not any(".narrow." in name for name in model.state_dict())
    assert torch.equal(run(model, batch), alone["default"])


def test_after_deleting_the_active_adapter_another_is_active_in_all_layers():
    model = put("llama", positions="self", target_modules=["0.self_attn"])
    model.add_adapter("other", config(positions="self", target_modules=["1.self_attn"]))
    model.set_adapter("default")
    model.delete_adapter("default")
    assert model.active_adapters == ["other"]
    alone = put("llama", positions="self", target_modules=["1.self_attn"])
    renamed = {name.replace(".other.", ".default."): x for name, x in model.state_dict().items()}
    alone.load_state_dict(renamed, strict=False)
    assert torch.equal(run(model, FAMILIES["llama"].batch()), run(alone, FAMILIES["llama"].batch()))
    model.delete_adapter("other")
    assert model.active_adapters == []


def test_models_and_names_that_are_refused():
    """PEFT tells adapters apart by names of parameters when it saves them."""
    with pytest.raises(UserError, match="Linear has no attention layer that can be read"):
        get_peft_model(nn.Linear(2, 2), GraphAdapterConfig())
    for name in ("share", "c_proj"):
        with pytest.raises(UserError, match=f"'{name}' is part of the names of parameters"):
            get_peft_model(FAMILIES["gpt2"].make(), config(), adapter_name=name)
    base = put("gpt2", positions="ffn").get_base_model()
    message = "'default' is taken by a GRAPH_ADAPTER adapter .* pass another adapter_name"
    with pytest.raises(UserError, match=message):
        get_peft_model(base, config(positions="ffn"))
    model = put("gpt2")
    for name in ("", "a.b", "a/b", "pop"):
        with pytest.raises(UserError, match="the adapter name .* cannot be the name of a module"):
            model.add_adapter(name, config())


def test_adapters_that_do_not_listen_leave_attention_as_it_is():
    """Those after feed-forward blocks alone, and one that is put in while adapters are off."""
    batch = FAMILIES["llama"].batch()
    want = run(FAMILIES["llama"].make(), batch)
    model = put("llama", positions="ffn")
    for _ in range(2):
        assert model.get_base_model().config._attn_implementation == "sdpa"
        with model.disable_adapter():
            assert torch.equal(run(model, batch), want)
    model = put("llama")
    adapted = run(model, batch)
    with model.disable_adapter():
        model.add_adapter("other", config("appnp"))
        assert model.get_base_model().config._attn_implementation == "sdpa"
        assert torch.equal(run(model, batch), want)
    assert torch.equal(run(model, batch), adapted)
    model.set_adapter("other")
    assert differ(run(model, batch), adapted)


def test_continuous_batching_is_refused_while_adapters_are_on():
    model = put("llama")
    options = dict(inputs=[[1, 2, 3]], generation_config=GenerationConfig(max_new_tokens=2, pad_token_id=0))
    for whole in (model, model.get_base_model()):
        with pytest.raises(UserError, match="disable the adapters first"):
            whole.generate_batch(**options)
    base = model.unload()
    assert "init_continuous_batching" not in vars(base)


def test_copies_stand_on_their_own():
    """Models from deepcopy and torch.save can be taken apart without touching the first."""
    model, batch = put("blip", join="replace"), FAMILIES["blip"].batch()
    want, base, file = run(model, batch), run(FAMILIES["blip"].make(), batch), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert torch.equal(run(twin, batch), want)
        with twin.disable_adapter():
            assert torch.equal(run(twin, batch), base)
        assert torch.equal(run(twin, batch), want)
        assert torch.equal(run(twin.unload(), batch), base)
    padded = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
    padded["attention_mask"][0, 4:] = 0
    assert not torch.equal(run(model, padded), want)  # its hooks are still there
    assert torch.equal(run(model, batch), want)
