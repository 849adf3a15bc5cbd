"""Where adapters go by themselves, and how to say it otherwise."""

import re
import warnings

import pytest
import torch
import transformers as hf
from peft import LoraConfig, PeftModel, get_peft_model

from attngraph.adapters import GraphAdapterConfig
from attngraph.adapters.peft.layer import GraphLayer, OutputLayer
from attngraph.adapters.peft.places import find_places, language_sites, position_of
from attngraph.errors import UserError
from attngraph.reading.instrument import instrument
from tests.adapters.peft.helpers import config
from tests.adapters.peft_models import FAMILIES, by_family
from tests.attngraph.reading.zoo import FAMILIES as READ
from tests.attngraph.reading.zoo import GQA, words

LLAMA = ("layers.0.self_attn.o_proj", "", "layers.0.mlp.down_proj")
UNDER_LLAVA = [name and f"model.language_model.{name}" for name in LLAMA]
ATTENTION, FFN = "encoder.layer.0.attention.output.dense", "encoder.layer.0.output.dense"
FIRST = {  # after self-attention, cross-attention and the feed-forward block
    "bert": (f"bert.{ATTENTION}", "", f"bert.{FFN}"),
    "gpt2": ("transformer.h.0.attn.c_proj", "", "transformer.h.0.mlp.c_proj"),
    "llama": [name and f"model.{name}" for name in LLAMA],
    "t5": (
        "encoder.block.0.layer.0.SelfAttention.o",
        "decoder.block.0.layer.1.EncDecAttention.o",
        "encoder.block.0.layer.1.DenseReluDense.wo",
    ),
    "blip": (
        f"text_decoder.bert.{ATTENTION}",
        "text_decoder.bert.encoder.layer.0.crossattention.output.dense",
        f"text_decoder.bert.{FFN}",
    ),
    "paligemma": UNDER_LLAVA,
    "mllama": (UNDER_LLAVA[0], "model.language_model.layers.1.cross_attn.o_proj", UNDER_LLAVA[2]),
}
COUNTS = {"t5": (4, 2, 4), "bart": (4, 2, 4), "blip": (2, 2, 2), "mllama": (2, 2, 4)}  # others: two layers
POSITIONS = ("self", "cross", "ffn")


def places(model, **settings):
    model = FAMILIES[model].make() if isinstance(model, str) else model
    handle = instrument(model)
    chosen = find_places(model, handle.sites.values(), GraphAdapterConfig(**settings))
    handle.remove()
    return {name: place.position for name, place in chosen.items()}


@pytest.mark.parametrize("family", by_family())
def test_defaults(family):
    chosen = places(family)
    counts = tuple(list(chosen.values()).count(position) for position in POSITIONS)
    assert counts == COUNTS.get(family, (2, 0, 2))
    for position, name in zip(POSITIONS, FIRST.get(family, ())):
        if name:
            assert chosen[name] == position
            alone = places(family, positions=position)
            assert name in alone and set(alone.values()) == {position}


def test_cross_attention_is_known_by_the_names_of_every_family():
    """But SigLIP's pooling head, whose name says nothing: its one query is a parameter."""
    layers = {name: kind for family in READ.values() for name, kind in family.layers.items() if kind}
    other = {name: kind for name, kind in layers.items() if position_of(name) != kind.split()[0]}
    assert set(other) == {"vision_model.head.attention"}


@pytest.mark.parametrize(
    "family, side", [("pix2struct", "decoder."), ("kosmos2", "text_model."), ("flava", "text_model.")]
)
def test_encoders_of_images_are_not_the_language_side(family, side):
    model = READ[family].make()
    handle = instrument(model)
    chosen = {site.name for site in language_sites(model, handle.sites.values())}
    handle.remove()
    assert {name for name in chosen if not name.startswith("multimodal_model.")} == {
        name for name in handle.sites if name.startswith(side)
    }


def test_attention_layers_by_name():
    """With the feed-forward blocks of the chosen layers."""
    first = "model.encoder.layers.0.self_attn"
    for names in (["self_attn"], ["out_proj"], r".*encoder\.layers.*self_attn"):
        chosen = places("bart", target_modules=names)
        assert len(chosen) > 2 and f"{first}.out_proj" in chosen
        assert all("attn" in name or name.endswith("fc2") for name in chosen)
    for names in ([first], re.escape(f"{first}.out_proj")):
        chosen = places("bart", target_modules=names)
        assert set(chosen) == {f"{first}.out_proj", "model.encoder.layers.0.fc2"}
    chosen = places("llava", target_modules=r".*vision_tower.*self_attn")
    assert all("vision_tower" in name for name in chosen) and any("mlp.fc2" in name for name in chosen)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # nothing else is left out
        rest = places("llava", exclude_modules=["layers.1.self_attn", "layers.0.mlp.down_proj"])
    second = UNDER_LLAVA[2].replace(".0.", ".1.")
    assert set(rest) == {UNDER_LLAVA[0], second}
    assert set(places("llama", positions="ffn", ffn_modules=["0.mlp.up_proj"])) == {
        "model.layers.0.mlp.up_proj"
    }


@pytest.mark.parametrize(
    "family, ends, settings",
    [
        ("llama", ["o_proj", "down_proj"], dict(layers_to_transform=1)),
        ("gpt2", ["c_proj"], dict(layers_to_transform=[0], layers_pattern="h")),
        ("bert", ["output.dense"], dict(layers_to_transform=[1], layers_pattern=["block", "layer"])),
        ("t5", ["o", "wo"], dict(layers_to_transform=[1])),  # of each block, whatever "layer.0" in it
        ("blip", ["output.dense"], dict(layers_to_transform=[0])),
    ],
    ids=str,
)
def test_layers_are_counted_as_by_lora(family, ends, settings):
    lora = get_peft_model(FAMILIES[family].make(), LoraConfig(r=2, target_modules=ends, **settings))
    chosen = places(family, **settings)
    assert set(chosen) == set(lora.base_model.targeted_module_names) < set(places(family))
    by_name = places(family, ffn_modules=ends[-1:], positions="ffn", **settings)
    assert set(by_name) == {name for name, position in chosen.items() if position == "ffn"}


def test_all_linear_is_every_side_of_the_model(tmp_path):
    """And stays in the configuration, which PEFT rewrites; what no adapter can follow is left out."""
    model = get_peft_model(FAMILIES["llava"].make(), config(target_modules="all-linear"))
    names = {module.name for module in model.modules() if isinstance(module, GraphLayer)}
    assert names > set(places("llava")) and any("vision_tower" in name for name in names)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(FAMILIES["llava"].make(), tmp_path)
    assert again.peft_config["default"].target_modules == "all-linear"
    assert {module.name for module in again.modules() if isinstance(module, GraphLayer)} == names
    with pytest.warns(UserWarning, match="no graph adapter follows the feed-forward blocks"):
        get_peft_model(new("Mixtral", PARTLY["Mixtral"][0]), config(target_modules="all-linear"))


def test_what_is_saved_as_a_whole_has_no_adapter():
    assert set(places("llama", modules_to_save=["mlp"])) == {
        f"model.layers.{k}.self_attn.o_proj" for k in (0, 1)
    }


class HomeMadeAttention(torch.nn.Module):
    """Which cannot be read."""


def test_other_sides_count_where_a_model_has_no_language_side():
    """And not where it has one that cannot be read, nor where only the model's kind tells them."""
    assert {name.partition(".")[0] for name in places(READ["trocr"].model())} == {"decoder"}
    model = FAMILIES["llava"].make()
    tower = torch.nn.ModuleDict({"vision_tower": model.model.vision_tower})
    assert set(places(tower).values()) == {"self", "ffn"} and len(places(tower)) == 4
    for layer in model.model.language_model.layers:
        layer.self_attn = HomeMadeAttention()
    message = r"language side of LlavaFor\w+ can't be read \(model.language_model.layers.0.self_attn is one\)"
    with pytest.raises(UserError, match=message):
        places(model)


def test_the_matrices_of_lora_are_no_feed_forward_blocks():
    lora = LoraConfig(r=2, target_modules=["down_proj"])
    model = get_peft_model(FAMILIES["llama"].make(), lora)
    settings = GraphAdapterConfig(positions="ffn", ffn_modules=r".*down_proj.*")
    names = [f"model.layers.{k}.mlp.down_proj" for k in (0, 1)]
    with pytest.raises(UserError, match="ffn_modules: '.*lora_A.*' matches no linear layer"):
        get_peft_model(model, GraphAdapterConfig(positions="ffn", ffn_modules=r".*lora_A.*"), "other")
    get_peft_model(model, settings, "graph")
    assert [module.name for module in model.modules() if isinstance(module, GraphLayer)] == names


@pytest.mark.parametrize(
    "family, settings, message",
    [
        ("bart", dict(target_modules=["no"]), "target_modules: 'no' matches no attention layer of Bart"),
        ("gpt2", dict(ffn_modules="no"), "ffn_modules: 'no' matches no linear layer of GPT2LMHead"),
        (
            "gpt2",
            dict(positions="cross"),
            "no attention layer for positions cross in GPT2LMHeadModel: it has transformer.h.0.attn (self), "
            "transformer.h.1.attn (self); choose",
        ),
        ("gpt2", dict(exclude_modules=["h.0.attn", "h.9"]), "exclude_modules: 'h.9' matches no attention or"),
        ("gpt2", dict(exclude_modules=".*"), "exclude_modules excludes every module that an adapter could"),
        ("gpt2", dict(layers_to_transform=[0, 9]), "layers_to_transform: there is no layer 9 in GPT2LMHead"),
        ("gpt2", dict(layers_to_transform=0, layers_pattern="x"), "there is no layer 0 of x in GPT2LMHead"),
        (
            "gpt2",
            dict(modules_to_save=["ln_f", "no"]),
            "'no' matches the end of no module name",
        ),
    ],
)
def test_what_is_not_there_is_said_with_what_is(family, settings, message):
    """And the model is as it was."""
    model = FAMILIES[family].make()
    state = [type(module) for module in model.modules()]
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        get_peft_model(model, GraphAdapterConfig(**settings))
    assert "\n" not in str(caught.value)
    assert [type(module) for module in model.modules()] == state
    assert model.config._attn_implementation == "sdpa"
    assert not any(module._forward_pre_hooks for module in model.modules())


WINDOW = {name: value for name, value in GQA.items() if name != "model_type"}
EXPERTS = dict(num_experts_per_tok=2, moe_intermediate_size=8)
LATENT = dict(q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, num_key_value_heads=4)
ROUTED = dict(n_routed_experts=4, n_group=2, topk_group=1, first_k_dense_replace=1)
HYBRID = dict(
    linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=4, linear_value_head_dim=4
)
BLOCKS = r"no graph adapter follows the feed-forward blocks of model.layers.{} .experts"
GATE = (
    r"no adapter can follow model.layers.{}.self_attn: the attention output is changed before o_proj \({}\), "
    "so that a graph's messages cannot take its place"
)
PARTLY = {  # how many adapters, in attention and in feed-forward blocks, and what is said
    "Mixtral": (dict(num_local_experts=2), (2, 0), BLOCKS.format(r"\*")),
    "DeepseekV3": (dict(**LATENT, **ROUTED, **EXPERTS, v_head_dim=8), (2, 1), BLOCKS.format(1)),
}
REFUSED = {
    "DeepseekV3": (
        dict(**LATENT, **ROUTED, **EXPERTS, v_head_dim=4),
        "self_attn: queries have 8 features per head and values 4, .* any other attention layer of Deepseek"
        "V3ForCausalLM .positions=.ffn. adapts its feed-forward blocks alone",
    ),
    "Qwen3Next": (
        dict(num_hidden_layers=4, num_experts=4, **EXPERTS, head_dim=4, **HYBRID),
        GATE.format(3, "a gate") + "; nor can one follow any other attention layer of Qwen3NextForCausalLM$",
    ),
}


def new(name, settings):
    made = getattr(hf, f"{name}Config")(**{"vocab_size": 40, **WINDOW, **settings})
    return getattr(hf, f"{name}ForCausalLM")(made)


@pytest.mark.parametrize("name", PARTLY)
def test_what_no_adapter_can_follow_is_left_out_by_default(name):
    settings, counts, said = PARTLY[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = get_peft_model(new(name, settings), config(reduction=4)).train()
    lines = [str(x.message) for x in caught if "no graph adapter follows" in str(x.message)]
    assert len(lines) == 1 and re.search(said, lines[0])
    layers = [module for module in model.modules() if isinstance(module, GraphLayer)]
    attention = sum(isinstance(layer, OutputLayer) for layer in layers)
    assert (attention, len(layers) - attention) == counts
    model(words(), use_cache=False).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)
    if counts[1] == 0:
        with pytest.raises(UserError, match="feed-forward block is known in .*: leave ffn out of positions"):
            get_peft_model(new(name, settings), GraphAdapterConfig(positions=("self", "ffn")))


def test_attention_that_is_not_read_is_named_where_adapters_go():
    """LED's encoder attends in blocks; its decoder has adapters all the same."""
    sizes = dict(vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, attention_window=4)
    heads = dict(encoder_attention_heads=2, decoder_attention_heads=2, max_encoder_position_embeddings=32)

    def make():
        return hf.LEDForConditionalGeneration(hf.LEDConfig(**sizes, **heads))

    own = "encoder.layers.0.self_attn.longformer_self_attn"
    for settings in ({}, dict(positions="self"), dict(target_modules=["self_attn"])):
        with pytest.warns(UserWarning, match=rf"no graph adapter follows led.{own} \(attends in blocks"):
            assert places(make(), **settings)
    for settings in (
        dict(positions="cross"),
        dict(target_modules=["encoder_attn"]),
        dict(exclude_modules=[own]),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert places(make(), **settings)


def test_a_sum_before_the_projection_is_no_gate():
    class Summing(hf.models.llama.modeling_llama.LlamaAttention):
        def forward(self, x, attention_interface=None):
            output, _ = attention_interface(self, x)
            mixed = output + x
            return self.o_proj(mixed)

    model = FAMILIES["llama"].make()
    for layer in model.model.layers:
        layer.self_attn.__class__ = Summing
    with pytest.raises(UserError, match=GATE.format(0, "a calculation")):
        get_peft_model(model, GraphAdapterConfig())


@pytest.mark.parametrize("name", REFUSED)
def test_gates_and_widths_are_refused_at_put_in(name):
    settings, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        get_peft_model(new(name, settings), GraphAdapterConfig())
