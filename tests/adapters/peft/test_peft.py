"""Graph adapters under PEFT keep the contract in every kind of model: what they compute, what they must not see,
decoding with a cache, and the way back."""

import copy
import json
import re

import pytest
import torch
import transformers as hf
from peft import PeftModel, get_peft_model

from adapters import SCHEMES, GraphAdapterConfig
from adapters.blip import attach
from adapters.peft.layer import OutputLayer
from attngraph.errors import UserError
from attngraph.reading.instrument import instrument
from tests.adapters.peft_models import FAMILIES, pixels
from tests.attngraph.reading.zoo import GQA, IMAGE, VISION, far_from_zero

SCHEME_ARGS = {
    "gcn": {},
    "appnp": {"alpha": 0.2, "steps": 2},
    "gcnii": {"alpha": 0.2, "theta": 1.2, "steps": 2},
    "pgnn": {"p": 1.25, "mu": 0.1, "steps": 2},
    "residual": {"alpha": 0.3},
}
GENERATORS = [name for name, family in FAMILIES.items() if family.kind != "encoder"]
every_family = pytest.mark.parametrize("family", FAMILIES)
every_scheme = pytest.mark.parametrize("gnn", SCHEME_ARGS)


def config(gnn="pgnn", **settings):
    return GraphAdapterConfig(
        **{"gnn": gnn, "reduction": 4, "init_weights": False, **SCHEME_ARGS[gnn], **settings}
    )


def put(family, gnn="pgnn", seed=0, **settings) -> PeftModel:
    """A model with adapters whose weights are random, as if trained."""
    model = FAMILIES[family].make()
    torch.manual_seed(seed)
    return get_peft_model(model, config(gnn, **settings)).eval()


def run(model, batch):
    with torch.no_grad():
        return model(
            **batch,
            **(
                {}
                if "decoder_input_ids" in batch
                else {"use_cache": False}
                if model.config.model_type not in ("bert", "blip")
                else {}
            ),
        ).logits


def close(got, want, tolerance=2e-5):
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * float(want.abs().max()))


def differ(got, want):
    return (got - want).abs().max() > 1e-3 * want.abs().max()


# ---- what they compute ---------------------------------------------------------------------------------------------


def test_every_scheme_is_tried_here():
    assert set(SCHEME_ARGS) == {
        name for name, scheme in SCHEMES.items() if scheme.__module__.startswith("adapters.")
    }


@pytest.mark.parametrize("join", ["replace", "gated", "blend"])
@every_scheme
def test_the_numbers_are_those_of_the_blip_adapters(gnn, join):
    """Two implementations of where adapters sit, one of what they compute: same weights, same logits."""
    model, other = put("blip", gnn, join=join), FAMILIES["blip"].make()
    adapters = attach(other, model.peft_config["default"].settings())
    state = model.state_dict()
    weights, layers = {}, "base_model.model.text_decoder.bert.encoder"
    for name in adapters.state_dict():  # layer.0.attention.join.…, layer.0.ffn.…
        place, rest = re.fullmatch(r"(layer\.\d+(?:\.\w*attention)?)\.(?:ffn\.)?(.*)", name).groups()
        weights[name] = state[f"{layers}.{place}.output.dense.gnn_adapter.default.{rest}"]
    adapters.load_state_dict(weights)
    batch = FAMILIES["blip"].batch()
    batch["attention_mask"][0, 4:] = 0
    close(run(model, batch), run(other, batch), 1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bert"])
@every_scheme
def test_the_scheme_runs_on_the_layers_own_graph(family, gnn):
    """The adapted projection, recomputed from the recorded call with explicit W_o and b_o."""
    model = put(family, gnn, join="replace", positions="self")
    handle = instrument(model.get_base_model())
    site = next(iter(handle.sites.values()))
    calls, seen = [], []
    site.listeners.append(calls.append)
    layer = model.get_base_model().get_submodule(site.output_name)
    layer.register_forward_hook(lambda module, args, output: seen.append(output))
    run(model, FAMILIES[family].batch())
    adapter, call = layer.gnn_adapter["default"], calls[0]
    weight = site.output.weight if family == "gpt2" else site.output.weight.T
    output = weight.reshape(call.query.shape[1], -1, weight.shape[1])  # h d width
    with torch.no_grad():
        heads = adapter.scheme(call.graph(metric=output @ output.transpose(-1, -2)))
        u = (heads @ output).sum(1) + (0 if site.output.bias is None else site.output.bias)
        close(seen[0], adapter.scheme.combine(u, adapter.join.bottleneck(u)))


@every_family
@pytest.mark.parametrize(
    "gnn, join", [*((gnn, "blend") for gnn in SCHEME_ARGS), ("gcnii", "gated"), ("gcn", "replace")]
)
def test_a_new_adapter_leaves_the_model_untouched(family, gnn, join):
    model = FAMILIES[family].make()
    model.set_attn_implementation("eager")
    want = run(model, FAMILIES[family].batch())
    got = run(get_peft_model(model, config(gnn, join=join, init_weights=True)), FAMILIES[family].batch())
    if join == "replace":
        close(got, want, 1e-6)
    else:
        assert torch.equal(got, want)


@pytest.mark.parametrize("family", ["bert", "gpt2", "bart", "t5"])
def test_while_training_a_new_adapter_draws_the_dropout_that_the_model_draws(family):
    base, batch = FAMILIES[family].make().train(), FAMILIES[family].batch()
    base.set_attn_implementation("eager")
    torch.manual_seed(5)
    want = run(base, batch)
    assert differ(run(base, batch), want)
    model = get_peft_model(base, config(init_weights=True)).train()
    torch.manual_seed(5)
    close(run(model, batch), want, 1e-5)  # to the last bit in evaluation


@every_family
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
        assert sum(name.endswith("p_logit") for name, p in model.named_parameters() if p.requires_grad) == 1
        assert sum(name.endswith("p_logit") for name in model.state_dict()) == len(layers)


# ---- what they must not see ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gnn", [name for name in SCHEME_ARGS])
@pytest.mark.parametrize("family", GENERATORS)
def test_later_tokens_do_not_change_earlier_logits(family, gnn):
    model, batch = put(family, gnn, join="replace"), FAMILIES[family].batch()
    name = "decoder_input_ids" if "decoder_input_ids" in batch else "input_ids"
    want = run(model, batch)
    k = batch[name].shape[1] - 2
    changed = dict(batch, **{name: torch.cat([batch[name][:, :k], batch[name][:, k:].flip(0)], 1)})
    got = run(model, changed)
    close(got[:, :k], want[:, :k], 1e-5)
    assert differ(got[:, k:], want[:, k:])


@pytest.mark.parametrize("gnn", ["pgnn", "appnp"])
@every_family
def test_right_padding(family, gnn):
    model, batch = put(family, gnn, join="replace"), FAMILIES[family].batch(n=6)
    batch["attention_mask"][1, -2:] = 0
    width = batch["input_ids"].shape[1]
    alone = {k: v[1:] if len(v) == 2 else v[len(v) // 2 :] for k, v in batch.items()}
    for k in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if k in alone:
            alone[k] = alone[k][:, : width - 2]
    got, want = run(model, batch)[1:], run(model, alone)
    close(got[:, : want.shape[1]], want)


@pytest.mark.parametrize("gnn", ["pgnn", "appnp"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_left_padding(family, gnn):
    model, batch = put(family, gnn, join="replace"), FAMILIES[family].batch(n=6)
    batch["attention_mask"][1, :2] = 0
    batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    close(run(model, batch)[1:, 2:], run(model, {k: v[1:, 2:] for k, v in batch.items()}))


# ---- decoding with a cache -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gnn, settings", [*((gnn, {}) for gnn in SCHEME_ARGS), ("pgnn", {"top_k": 2})], ids=str
)
@pytest.mark.parametrize("family", GENERATORS)
def test_generation_with_beams_equals_generation_without_cache(family, gnn, settings):
    task = {"gpt2": "CAUSAL_LM", "llama": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM", "bart": "SEQ_2_SEQ_LM"}.get(
        family
    )
    model, batch = put(family, gnn, join="replace", task_type=task, **settings), FAMILIES[family].batch(n=4)
    batch.pop("decoder_input_ids", None)
    if family in ("gpt2", "llama"):
        batch["attention_mask"][1, :2] = 0
    more = dict(
        num_beams=3,
        do_sample=False,
        max_new_tokens=5,
        return_dict_in_generate=True,
        output_scores=True,
        suppress_tokens=[IMAGE],
    )
    cached, plain = (model.generate(**batch, use_cache=flag, **more) for flag in (True, False))
    assert torch.equal(cached.sequences, plain.sequences)
    for one, two in zip(cached.scores, plain.scores, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", ["mistral", "gemma2"])
@every_scheme
def test_a_sliding_window_forgets_the_degrees_of_what_it_forgets(kind, gnn):
    window = {name: value for name, value in GQA.items() if name != "model_type"} | {"head_dim": 4}
    make = {
        "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**window, sliding_window=3)),
        "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**window, sliding_window=4)),
    }[kind]
    model = get_peft_model(far_from_zero(make(), 0), config(gnn, join="replace"))
    ids = FAMILIES["llama"].batch(n=12)["input_ids"]
    want = run(model, {"input_ids": ids})
    got, cache = [], hf.DynamicCache(config=model.config)
    for part in ids.split([2, 4, 1, 1, 3, 1], 1):
        with torch.no_grad():
            got.append(model(part, past_key_values=cache, use_cache=True).logits)
    close(torch.cat(got, 1), want)


def test_adapters_of_one_shape_share_the_cached_degrees():
    model = put("llama", "pgnn")
    model.add_adapter("other", config("appnp"))
    model.add_adapter("sparse", config("appnp", top_k=2))
    ids = FAMILIES["llama"].batch()["input_ids"]
    cache = model(ids[:, :3], use_cache=True).past_key_values
    model.set_adapter("other")
    cache = model(ids[:, 3:4], past_key_values=cache, use_cache=True).past_key_values
    model.set_adapter("sparse")
    with pytest.raises(UserError, match="cache holds 4 earlier tokens, but the attention graph saw 0"):
        model(ids[:, 4:], past_key_values=cache, use_cache=True)


# ---- saving --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family, gnn, settings",
    [
        *((family, "pgnn", {"learn_mu": True}) for family in FAMILIES),
        *(("gpt2", gnn, {}) for gnn in SCHEME_ARGS),
        ("llama", "pgnn", {"join": "gated", "top_k": 3}),
        ("llama", "pgnn", {"join": "replace", "shared": True}),
        ("llama", "appnp", {"target_modules": ["layers.1.self_attn"], "positions": "self"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("low_memory", [False, True])
def test_a_saved_adapter_comes_back_exactly(family, gnn, settings, low_memory, tmp_path):
    model, batch = put(family, gnn, **settings), FAMILIES[family].batch()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 0:
                p += 0.123
    model.save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    loaded = PeftModel.from_pretrained(FAMILIES[family].make(), tmp_path, low_cpu_mem_usage=low_memory)
    assert torch.equal(run(loaded, batch), run(model, batch))
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
    """PEFT trains adapters of a half-precision model in float32 unless told otherwise; single numbers always are."""

    def base():
        return FAMILIES["llama"].make().bfloat16()

    model = get_peft_model(base(), config(), autocast_adapter_dtype=upcast).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 0:
                p += 0.00123
    learn = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in learn if p.dim()} == {torch.float32 if upcast else torch.bfloat16}
    assert {p.dtype for p in learn if not p.dim()} == {torch.float32}
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(
        base(), tmp_path, autocast_adapter_dtype=upcast, low_cpu_mem_usage=low_memory
    )
    assert torch.equal(run(loaded, FAMILIES["llama"].batch()), run(model, FAMILIES["llama"].batch()))


def test_other_weights_are_noticed(tmp_path):
    put("gpt2", "gcn").save_pretrained(tmp_path)
    config_file = tmp_path / "adapter_config.json"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"gnn": "pgnn"}))
    with pytest.warns(UserWarning, match="missing adapter keys.*p_logit"):
        PeftModel.from_pretrained(FAMILIES["gpt2"].make(), tmp_path)


# ---- switching -----------------------------------------------------------------------------------------------------


@every_family
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


def test_two_peft_models_round_one_model_hear_each_call_once():
    first = put("llama", "appnp")
    second = get_peft_model(first.get_base_model(), config(), adapter_name="second").eval()
    ids = FAMILIES["llama"].batch()["input_ids"]
    want = run(second, {"input_ids": ids})
    cache = second(ids[:, :3], use_cache=True).past_key_values
    close(second(ids[:, 3:], past_key_values=cache, use_cache=True).logits, want[:, 3:])


@pytest.mark.parametrize("name", ["down", "share", "c_proj", "0"])
def test_a_name_that_parameters_have_is_refused(name):
    """PEFT tells adapters apart by these names when it saves them."""
    with pytest.raises(UserError, match=f"'{name}' is part of the names of parameters"):
        get_peft_model(FAMILIES["gpt2"].make(), config(), adapter_name=name)


def test_merging_is_refused():
    model = put("gpt2")
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(UserError, match=r"can't be merged into the weights: use unload\(\)"):
            merge()


def test_another_attention_function_set_afterwards_is_noticed():
    model = put("gpt2")
    model.get_base_model().set_attn_implementation("sdpa")
    with pytest.raises(UserError, match="ran unseen: its implementation was changed after the adapters"):
        run(model, FAMILIES["gpt2"].batch())


def test_a_gate_before_the_projection_is_noticed():
    model = FAMILIES["gpt2"].make()
    projection = model.transformer.h[0].attn.c_proj
    torch.manual_seed(0)
    adapted = get_peft_model(model, config())
    layer = model.transformer.h[0].attn.c_proj
    assert layer.base_layer is projection
    layer.register_forward_pre_hook(lambda module, args: (args[0] * 0.5,))
    with pytest.raises(UserError, match="h.0.attn.c_proj takes it .a gate or a norm.*exclude="):
        run(adapted, FAMILIES["gpt2"].batch())


def test_copies_stand_on_their_own():
    model, batch = put("llama"), FAMILIES["llama"].batch()
    want = run(model, batch)
    twin = copy.deepcopy(model)
    assert torch.equal(run(twin, batch), want)
    twin.unload()
    assert torch.equal(run(model, batch), want)


def test_pytorchs_own_attention_layer():
    """SigLIP's pooling head: an adapter behind it learns, and switched off the model is as before."""
    model, batch = (
        far_from_zero(hf.SiglipVisionModel(hf.SiglipVisionConfig(**VISION)), 0),
        pixels(torch.ones(2)),
    )

    def pooled():
        return model(**batch).pooler_output

    with torch.no_grad():
        want = pooled()
    adapted = get_peft_model(model, config(positions="self", target_modules=["head.attention"]))
    assert all("head.attention.out_proj" in name for name, p in adapted.named_parameters() if p.requires_grad)
    got = pooled()
    assert differ(got, want)
    got.square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in adapted.parameters() if p.requires_grad)
    with torch.no_grad(), adapted.disable_adapter():
        close(pooled(), want, 1e-6)  # PyTorch's last bit depends on whether weights are frozen
    model = adapted.unload()
    with torch.no_grad():
        close(pooled(), want, 1e-6)


# ---- precision and memory ------------------------------------------------------------------------------------------


@every_scheme
@every_family
def test_half_precision(family, gnn):
    torch.manual_seed(0)
    model = get_peft_model(FAMILIES[family].make().bfloat16(), config(gnn, join="replace")).train()
    batch = {k: v.bfloat16() if v.is_floating_point() else v for k, v in FAMILIES[family].batch().items()}
    batch["input_ids"][1, -4:] = 7  # nodes that are nearly equal
    batch["attention_mask"][0, -2:] = 0
    logits = model(**batch).logits
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()
    logits.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("join", ["replace", "gated", "blend"])
@every_family
def test_autocast_does_not_leave_traces(family, join):
    model, batch = put(family, join=join), FAMILIES[family].batch()
    want = run(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(**batch).logits
        rough.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert torch.nn.functional.cosine_similarity(rough.float().flatten(), want.flatten(), dim=0) > 0.99
    assert torch.equal(run(model, batch), want)


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "blip"])
def test_gradient_checkpointing(family):
    def grads(checkpointing):
        model = put(family, join="replace").train()
        torch.manual_seed(1)  # dropout
        if checkpointing:
            model.gradient_checkpointing_enable()
        batch = FAMILIES[family].batch()
        model(**batch).logits.square().mean().backward()
        return [p.grad for p in model.parameters() if p.requires_grad]

    for got, want in zip(grads(True), grads(False), strict=True):
        close(got, want, 1e-4)
