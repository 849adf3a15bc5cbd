"""Effects of the adapters in a model: each layer's own scheme, on its own graph, with its own W_o."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from adapters.effects import effect
from adapters.peft import adapter_effects, watch_effects
from attngraph import UserError, capture
from tests.adapters.peft.helpers import config, put, run
from tests.adapters.peft_models import FAMILIES


@pytest.mark.parametrize(
    "family, settings",
    [
        ("blip", {}),
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
    for name, adapter in layers.items():
        sites = {m.name: m for m in model.modules() if hasattr(m, "listen")}
        layer = next(m for m in sites.values() if m.gnn_adapter["default"] is adapter)
        weight = layer.projection.weight if family == "gpt2" else layer.projection.weight.T
        want = effect(adapter.scheme, graphs[name], weight.detach(), adapter.top_k, adapter.rescale)
        assert got[name].queries == want.queries > 0
        assert 0 < got[name].kappa < 1 and 0 < got[name].moved < 1
        for field in ("kappa", "moved", "length", "cosine", "whole_length", "whole_cosine", "p"):
            assert getattr(got[name], field) == pytest.approx(getattr(want, field), rel=1e-5), field
        share = got[name].share
        assert share == (0.5 if hasattr(adapter.join, "share") else None)
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
    with pytest.raises(UserError, match=message):
        adapter_effects(plain, batch)
    with model.disable_adapter(), pytest.raises(UserError, match=message):
        adapter_effects(model, batch)
    with pytest.raises(UserError, match=message):
        adapter_effects(put("llama", positions="ffn"), batch)
    assert adapter_effects(model, batch)
