"""The single numbers that adapters learn, by readable names."""

import pytest
from torch import nn

from adapters.peft import learned_scalars
from adapters.peft.learned import short_names
from tests.adapters.peft.helpers import config, put


@pytest.mark.parametrize(
    "names, want",
    [
        (
            [
                f"text_decoder.bert.encoder.layer.{k}.{x}.output.dense"
                for k in (0, 1)
                for x in ("attention", "cross")
            ],
            ["layer.0.attention", "layer.0.cross", "layer.1.attention", "layer.1.cross"],
        ),
        (["model.layers.3.self_attn.o_proj"], ["layers.3.self_attn"]),
        (
            ["encoder.block.0.layer.0.SelfAttention.o", "decoder.block.0.layer.1.EncDecAttention.o"],
            ["encoder.block.0.layer.0.SelfAttention", "decoder.block.0.layer.1.EncDecAttention"],
        ),
        (["a.0.attn.out", "a.0.ffn.end"], ["a.0.attn.out", "a.0.ffn.end"]),
        (["head.attention.out_proj"], ["head.attention.out_proj"]),
        (["0.attn", "12.attn"], ["0.attn", "12.attn"]),
        ([], []),
    ],
)
def test_short_names(names, want):
    assert short_names(names) == want


def test_values_are_those_that_the_schemes_use():
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


@pytest.mark.parametrize(
    "settings, names",
    [
        (dict(gnn="gcn", join="replace"), set()),
        (dict(gnn="gcn", join="blend"), {"share"}),
        (dict(gnn="pgnn", join="gated"), {"p"}),
        (dict(gnn="pgnn", join="gated", p=2.0, learn_p=False), set()),
    ],
    ids=str,
)
def test_only_what_is_learned(settings, names):
    assert {name.rsplit(".", 1)[1] for name in learned_scalars(put("llama", **settings))} == names


def test_the_active_adapter_is_the_one():
    model = put("llama", p=1.25)
    model.add_adapter("other", config(p=1.75, positions="self", target_modules=["1.self_attn"]))
    for active, want in (("default", {"0": 1.25, "1": 1.25}), ("other", {"1": 1.75})):
        model.set_adapter(active)
        values = learned_scalars(model)
        assert {k[7]: v for k, v in values.items() if k.endswith(".p")} == pytest.approx(want)
    with model.disable_adapter():
        assert learned_scalars(model) == values
    assert learned_scalars(model.unload()) == {}
