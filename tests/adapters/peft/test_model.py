"""Putting adapters into a model, switching between them, and the way back."""

import copy
import functools
import io

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import GenerationConfig

from adapters import GraphAdapterConfig
from adapters.peft.layer import FeedForwardLayer, GraphLayer, OutputLayer
from attngraph import UserError, capture
from attngraph.reading.hub import find_hub
from tests.adapters.peft import blip_decoder as blip
from tests.adapters.peft.blip_decoder import JOINS, SCHEME_ARGS, logits
from tests.adapters.peft.helpers import close, config, differ, put, run
from tests.adapters.peft_models import FAMILIES
from tests.pairwise import pairwise_params


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_adapters_learn(family):
    base = {name for name, _ in FAMILIES[family].make().named_parameters()}
    model = put(family).train()
    learn = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(model.get_base_model().state_dict()) > len(learn)
    assert all(".gnn_adapter.default." in name for name in learn)
    assert all(name.removeprefix("base_model.model.").startswith(FAMILIES[family].adapted) for name in learn)
    assert {
        name.removeprefix("base_model.model.").replace(".base_layer", "")
        for name, p in model.named_parameters()
        if not p.requires_grad
    } == base
    model(**FAMILIES[family].batch()).logits.square().mean().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in learn.values()
    )


@pytest.mark.parametrize("settings", [dict(backend="sparse"), dict(top_k=2), dict(shared=True)], ids=str)
def test_settings_reach_the_layers(settings):
    model = put("llama", **settings)
    layers = [m.gnn_adapter["default"] for m in model.modules() if isinstance(m, OutputLayer)]
    plain = put("llama")
    if "backend" in settings:
        close(run(model, FAMILIES["llama"].batch()), run(plain, FAMILIES["llama"].batch()), 1e-4)
    elif "top_k" in settings:
        assert differ(run(model, FAMILIES["llama"].batch()), run(plain, FAMILIES["llama"].batch()))
    else:
        assert len({id(adapter.scheme) for adapter in layers}) == 1 < len(layers)
        assert (
            sum(name.endswith("p_logit.stored") for name, p in model.named_parameters() if p.requires_grad)
            == 1
        )
        assert sum(name.endswith("p_logit.stored") for name in model.state_dict()) == len(layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_switching_off_gives_the_base_back_exactly(family):
    base, batch = FAMILIES[family].make(), FAMILIES[family].batch()
    kinds, want = [type(m) for m in base.modules()], run(base, batch)
    state, implementation = copy.deepcopy(base.state_dict()), base.config._attn_implementation
    torch.manual_seed(0)
    model = get_peft_model(base, config()).eval()
    adapted = run(model, batch)
    assert differ(adapted, want)
    with model.disable_adapter():
        assert base.config._attn_implementation == implementation
        assert torch.equal(run(model, batch), want)
        with model.disable_adapter():
            pass
        assert torch.equal(run(model, batch), want)
    assert torch.equal(run(model, batch), adapted)
    back = model.unload()
    assert (
        back is base
        and torch.equal(run(base, batch), want)
        and base.config._attn_implementation == implementation
    )
    assert [type(m) for m in base.modules()] == kinds
    assert not any(m._forward_pre_hooks or "attngraph" in m.__dict__ for m in base.modules())
    assert base.state_dict().keys() == state.keys()
    assert all(torch.equal(x, state[name]) for name, x in base.state_dict().items())
    close(run(put(family), batch), adapted, 1e-6)
    get_peft_model(base, config())  # there is room for new ones


@pytest.mark.parametrize("gnn, join", pairwise_params(gnn=list(SCHEME_ARGS), join=JOINS))
def test_switching_off_a_blip_decoder(gnn, join, make_decoder, words, image_states):
    """Exactly, also while generating; its attention modules have other classes while adapters run."""
    model = make_decoder()
    kinds = [type(m) for m in model.modules()]
    state = copy.deepcopy(model.state_dict())
    ids, states = words(), image_states()
    more = dict(encoder_hidden_states=states, max_new_tokens=5, num_beams=2, do_sample=False)
    before, text = logits(model, ids, states), model.generate(ids, **more)
    adapted = blip.put(model, gnn, join=join)
    assert not torch.allclose(logits(adapted, ids, states), before, atol=0.05)
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted, ids, states), before)
        assert torch.equal(adapted.generate(ids, **more), text)
        with adapted.disable_adapter():
            pass
        assert torch.equal(logits(adapted, ids, states), before)
    assert not torch.allclose(logits(adapted, ids, states), before, atol=0.05)
    assert adapted.unload() is model
    assert torch.equal(logits(model, ids, states), before)
    assert [type(m) for m in model.modules()] == kinds
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(x, state[name]) for name, x in model.state_dict().items())
    blip.put(model, gnn, join=join)  # there is room for new ones


def test_what_could_learn_before_can_learn_again(make_captioner, words):
    model = make_captioner()
    model.vision_model.requires_grad_(False)
    before = {name for name, p in model.named_parameters() if p.requires_grad}
    ids = words()
    adapted = blip.put(model)
    adapted(pixel_values=torch.randn(2, 3, 8, 8), input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is None for name, p in model.named_parameters() if ".gnn_adapter." not in name)
    back = adapted.unload()
    assert {name for name, p in back.named_parameters() if p.requires_grad} == before


@pytest.mark.parametrize(
    "wrong", [dict(adapter_name="dense"), dict(peft_config=GraphAdapterConfig(target_modules=["nothing"]))]
)
def test_a_failed_try_leaves_nothing_behind(wrong):
    """Else parameters that were frozen since then would be thawed at the end."""
    model = FAMILIES["bert"].make()
    before = set(vars(model))
    with pytest.raises(UserError):
        get_peft_model(model, **{"peft_config": config(), **wrong})
    assert set(vars(model)) == before
    model.requires_grad_(False)
    back = get_peft_model(model, config()).unload()
    assert not any(p.requires_grad for p in back.parameters())


@pytest.mark.parametrize("first", [config(), LoraConfig(target_modules=["query"])], ids=["graph", "lora"])
def test_a_failed_try_beside_another_adapter_leaves_its_name_free(first):
    base = get_peft_model(FAMILIES["bert"].make(), first).get_base_model()
    with pytest.raises(UserError, match="matches no attention layer"):
        get_peft_model(base, config(target_modules=["nothing"]), adapter_name="second")
    assert list(base.peft_config) == ["default"]
    assert "second" in get_peft_model(base, config(), adapter_name="second").peft_config


@pytest.mark.parametrize("kind, method", [(FeedForwardLayer, "make"), (GraphLayer, "set_adapter")])
@pytest.mark.parametrize("beside", [False, True])
def test_adapters_that_went_in_before_a_failure_come_out_again(beside, kind, method, monkeypatch):
    model, batch = FAMILIES["bart"].make(), FAMILIES["bart"].batch()
    first = get_peft_model(model, config(positions="self")) if beside else None
    want, seen, own = run(model, batch), [], getattr(kind, method)

    def state():
        hubs = (hub for module in model.modules() if (hub := find_hub(module)) is not None)
        return (
            [(name, type(module)) for name, module in model.named_modules()],
            [(name, p.requires_grad) for name, p in model.named_parameters()],
            [list(hub.listeners) for hub in hubs],
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


def test_after_feed_forward_blocks_alone_attention_stays_as_it_is():
    model, batch = put("llama", positions="ffn"), FAMILIES["llama"].batch()
    for _ in range(2):
        assert model.get_base_model().config._attn_implementation == "sdpa"
        with model.disable_adapter():
            assert torch.equal(run(model, batch), run(FAMILIES["llama"].make(), batch))


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
        model = get_peft_model(FAMILIES["t5"].make(), copy.deepcopy(one)).eval()
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
    model.set_adapter("default")
    model.delete_adapter("narrow")
    assert not any(".narrow." in name for name in model.state_dict())
    assert torch.equal(run(model, batch), alone["default"])
    model.set_adapter("wide")
    model.delete_adapter("default")
    assert torch.equal(run(model, batch), alone["wide"])


def test_an_adapter_put_in_while_adapters_are_off_leaves_them_off():
    model, batch = put("llama"), FAMILIES["llama"].batch()
    want, adapted = run(FAMILIES["llama"].make(), batch), run(model, batch)
    with model.disable_adapter():
        model.add_adapter("other", config("appnp"))
        assert model.get_base_model().config._attn_implementation == "sdpa"
        assert torch.equal(run(model, batch), want)
    assert torch.equal(run(model, batch), adapted)
    model.set_adapter("other")
    assert differ(run(model, batch), adapted)


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


@pytest.mark.parametrize("name", ["down", "share", "c_proj", "0"])
def test_a_name_that_parameters_have_is_refused(name):
    """PEFT tells adapters apart by these names when it saves them."""
    with pytest.raises(UserError, match=f"'{name}' is part of the names of parameters"):
        get_peft_model(FAMILIES["gpt2"].make(), config(), adapter_name=name)


@pytest.mark.parametrize("positions", ["self", "cross", "ffn"])
def test_adapters_go_in_once_under_a_name(positions, make_decoder):
    model = make_decoder()
    blip.put(model, positions=positions)
    with pytest.raises(
        UserError, match="'default' is taken by a GRAPH_ADAPTER adapter .* give another adapter_name"
    ):
        blip.put(model, positions=positions)


def test_a_model_without_attention_is_refused():
    with pytest.raises(UserError, match="Linear has no attention layer that can be read"):
        get_peft_model(nn.Linear(2, 2), GraphAdapterConfig())


def hook(model):
    """Hooks as accelerate's ``add_hook_to_module`` puts them on."""
    for module in model.modules():
        module.forward = functools.partial(type(module).forward, module)
    return model


def test_hooks_on_forward_methods_are_refused(make_decoder, words, image_states):
    """They keep the method of another class, so that adapters would silently not run, or not stop."""
    hooked = hook(make_decoder())
    with pytest.raises(UserError, match="remove the hooks, or put them on afterwards"):
        get_peft_model(hooked, GraphAdapterConfig())
    assert not any(
        "attngraph" in vars(module) or isinstance(module, OutputLayer) for module in hooked.modules()
    )
    model = make_decoder()
    base = logits(model, words(), image_states())
    adapted = blip.put(model)
    want = logits(adapted, words(), image_states())
    hook(model)
    assert torch.equal(logits(adapted, words(), image_states()), want)
    with pytest.raises(UserError, match="remove them before the adapters are switched off or taken out"):
        adapted.unload()
    with pytest.raises(UserError, match="remove them before"), adapted.disable_adapter():
        pass
    for module in model.modules():
        vars(module).pop("forward")
    assert torch.equal(logits(adapted, words(), image_states()), want)
    assert torch.equal(logits(adapted.unload(), words(), image_states()), base)


def test_continuous_batching_is_refused_while_adapters_are_on():
    model = put("llama")
    options = dict(inputs=[[1, 2, 3]], generation_config=GenerationConfig(max_new_tokens=2, pad_token_id=0))
    for whole in (model, model.get_base_model()):
        with pytest.raises(UserError, match="switch the adapters off first"):
            whole.generate_batch(**options)
    base = model.unload()
    assert "init_continuous_batching" not in vars(base)


def test_merging_is_refused():
    model = put("gpt2")
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(UserError, match=r"can't be merged into the weights: use unload\(\)"):
            merge()


def test_copies_stand_on_their_own(make_decoder, words, image_states):
    """Models from deepcopy and torch.save can be taken apart without touching the first."""
    model = make_decoder()
    base = logits(model, words(), image_states())
    adapted = blip.put(model, join="replace")
    want = logits(adapted, words(), image_states())
    file = io.BytesIO()
    torch.save(adapted, file)
    file.seek(0)
    for twin in (copy.deepcopy(adapted), torch.load(file, weights_only=False)):
        assert torch.equal(logits(twin, words(), image_states()), want)
        with twin.disable_adapter():
            assert torch.equal(logits(twin, words(), image_states()), base)
        assert torch.equal(logits(twin, words(), image_states()), want)
        assert torch.equal(logits(twin.unload(), words(), image_states()), base)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[0, 4:] = 0
    assert not torch.equal(logits(adapted, words(), image_states(), mask), want)  # its hooks are still there
    assert torch.equal(logits(adapted, words(), image_states()), want)


def test_copies_of_a_model_with_an_attention_interface():
    model, batch = put("llama"), FAMILIES["llama"].batch()
    want = run(model, batch)
    twin = copy.deepcopy(model)
    assert torch.equal(run(twin, batch), want)
    twin.unload()
    assert torch.equal(run(model, batch), want)
