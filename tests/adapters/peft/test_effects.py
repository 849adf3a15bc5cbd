"""Effects of the adapters in a model and the numbers that they learned, each layer's own."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from attngraph import UserError, capture
from attngraph.adapters.effects import EffectTally
from attngraph.adapters.peft import adapter_effects, learned_scalars, watch_effects
from attngraph.adapters.peft.effects import short_names
from tests.adapters.peft.helpers import config, put, run
from tests.adapters.peft_models import FAMILIES


@pytest.mark.parametrize(
    "family, settings",
    [
        ("gpt2", {"top_k": 3}),  # Conv1D
        ("llama", {"rescale": True, "join": "replace"}),  # grouped heads, rotary embedding
        ("t5", {"gnn": "rotated", "shared": True}),
    ],
)
def test_equals_the_captured_graphs(family, settings):
    settings = {"gnn": "pgnn", **settings}
    model, batch = put(family, **settings), FAMILIES[family].batch()
    batch["attention_mask"][1, -2:] = 0
    with torch.no_grad():
        for k, (name, parameter) in enumerate(model.named_parameters()):
            if name.endswith("p_logit.stored"):
                parameter.add_(0.03 * (k % 5))  # layers have learned different exponents
    before = run(model, batch)
    got = adapter_effects(model, batch)
    base = model.get_base_model()
    graphs, layers = capture(base, batch), model.base_model.layers()
    assert list(got) == [name for name in graphs if name in layers] and got
    sites = [m for m in model.modules() if hasattr(m, "listen")]
    for name, adapter in layers.items():
        layer = next(m for m in sites if m.gnn_adapter["default"] is adapter)
        weight = layer.projection.weight if family == "gpt2" else layer.projection.weight.T
        tally = EffectTally(adapter.scheme, weight.detach(), adapter.top_k, adapter.rescale)
        tally.add(graphs[name])
        want = tally.effect()
        assert got[name].queries == want.queries > 0
        for field in ("kappa", "moved", "length", "cosine", "whole_length", "whole_cosine", "p"):
            assert getattr(got[name], field) == pytest.approx(getattr(want, field), rel=1e-5), field
        assert got[name].share == (0.5 if hasattr(adapter.join, "share") else None)
    if not settings.get("shared"):
        assert len({found.p for found in got.values()}) > 1
    assert torch.equal(run(model, batch), before)
    assert got == adapter_effects(base, batch)


def test_batches_add_up():
    model = put("llama")
    batches = [FAMILIES["llama"].batch(n=n, seed=n) for n in (3, 7)]
    with watch_effects(model) as seen:
        for batch in batches:
            run(model, batch)
        assert not seen
    assert seen == adapter_effects(model, batches)
    parts = [adapter_effects(model, batch) for batch in batches]
    for name, found in seen.items():
        one, two = (part[name] for part in parts)
        assert (one.queries, two.queries, found.queries) == (6, 14, 20)
        assert found.kappa == pytest.approx((6 * one.kappa + 14 * two.kappa) / 20)


def test_beside_lora_the_frozen_projection_counts():
    """In the first layer, whose graph LoRA behind it does not change."""
    batch = FAMILIES["llama"].batch()
    lora = LoraConfig(target_modules=["o_proj"], init_lora_weights=False)
    tuned = get_peft_model(FAMILIES["llama"].make(), lora)
    both = adapter_effects(get_peft_model(tuned, config(), adapter_name="graph").eval(), batch)
    alone = adapter_effects(put("llama"), batch)
    first, second = alone
    assert both.keys() == alone.keys() and both[first] == alone[first] and both[second] != alone[second]


def test_models_without_adapters_that_run():
    plain, model, batch = FAMILIES["llama"].make(), put("llama"), FAMILIES["llama"].batch()
    message = "no graph adapter is switched on after an attention layer of LlamaForCausalLM"
    for without in (plain, put("llama", positions="ffn")):
        with pytest.raises(UserError, match=message):
            adapter_effects(without, batch)
    with model.disable_adapter(), pytest.raises(UserError, match=message):
        adapter_effects(model, batch)
    assert adapter_effects(model, batch)


def test_short_names():
    blip = "text_decoder.bert.encoder.layer.{}.{}.output.dense"
    t5 = ["encoder.block.0.layer.0.SelfAttention.o", "decoder.block.0.layer.1.EncDecAttention.o"]
    for names, want in (
        ([blip.format(1, x) for x in ("attention", "cross")], ["layer.1.attention", "layer.1.cross"]),
        (["model.layers.3.self_attn.o_proj"], ["layers.3.self_attn"]),
        (t5, [name.removesuffix(".o") for name in t5]),
        (["a.0.attn.out", "a.0.ffn.end"], ["a.0.attn.out", "a.0.ffn.end"]),
        (["head.attention.out_proj"], ["head.attention.out_proj"]),
    ):
        assert short_names(names) == want


def test_learned_values_are_those_that_the_schemes_use():
    model = put("blip", learn_mu=True, p=1.25, mu=0.5)
    values = learned_scalars(model)
    layers = [f"layer.{k}.{name}" for k in (0, 1) for name in ("attention", "crossattention")]
    assert set(values) == {f"{layer}.{name}" for layer in layers for name in ("p", "mu", "share")}
    assert values["layer.0.attention.p"] == pytest.approx(1.25, abs=1e-6)
    assert values["layer.1.crossattention.mu"] == pytest.approx(0.5, abs=1e-6)
    assert values["layer.1.attention.share"] == 0.5
    for name, parameter in model.named_parameters():
        if "layer.1.attention" in name and name.endswith("p_logit.stored"):
            nn.init.constant_(parameter, 0.0)
    assert learned_scalars(model) == values | {"layer.1.attention.p": pytest.approx(2.0)}
    assert learned_scalars(model.get_base_model()) == learned_scalars(model)
    assert not learned_scalars(put("llama", gnn="pgnn", join="gated", p=2.0, learn_p=False))
    model.add_adapter("other", config(p=1.75, positions="cross"))
    model.set_adapter("other")  # of the adapter that is active
    exponents = {name: x for name, x in learned_scalars(model).items() if name.endswith(".p")}
    assert exponents == pytest.approx({f"layer.{k}.crossattention.p": 1.75 for k in (0, 1)})
