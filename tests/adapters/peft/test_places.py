"""Where adapters go by themselves, and how to say it otherwise."""

import re
import warnings

import pytest
import transformers as hf
from peft import LoraConfig, get_peft_model

from adapters import GraphAdapterConfig
from adapters.peft.layer import GraphLayer, OutputLayer
from adapters.peft.places import find_places
from attngraph.errors import UserError
from attngraph.reading.instrument import instrument
from tests.adapters.peft.helpers import config
from tests.adapters.peft_models import FAMILIES
from tests.attngraph.reading.zoo import GQA, TEXT, VISION, words

LLAMA = {"self": "layers.0.self_attn.o_proj", "ffn": "layers.0.mlp.down_proj"}
LAYER = {  # the first adapted layer of each family
    "bert": {
        "self": "bert.encoder.layer.0.attention.output.dense",
        "ffn": "bert.encoder.layer.0.output.dense",
    },
    "gpt2": {"self": "transformer.h.0.attn.c_proj", "ffn": "transformer.h.0.mlp.c_proj"},
    "llama": {position: f"model.{name}" for position, name in LLAMA.items()},
    "t5": {
        "self": "encoder.block.0.layer.0.SelfAttention.o",
        "cross": "decoder.block.0.layer.1.EncDecAttention.o",
        "ffn": "encoder.block.0.layer.1.DenseReluDense.wo",
    },
    "bart": {
        "self": "model.encoder.layers.0.self_attn.out_proj",
        "cross": "model.decoder.layers.0.encoder_attn.out_proj",
        "ffn": "model.encoder.layers.0.fc2",
    },
    "blip": {
        "self": "text_decoder.bert.encoder.layer.0.attention.output.dense",
        "cross": "text_decoder.bert.encoder.layer.0.crossattention.output.dense",
        "ffn": "text_decoder.bert.encoder.layer.0.output.dense",
    },
    "blip2": {
        "self": "language_model.model.decoder.layers.0.self_attn.out_proj",
        "ffn": "language_model.model.decoder.layers.0.fc2",
    },
    "llava": {position: f"model.language_model.{name}" for position, name in LLAMA.items()},
    "qwen2-vl": {position: f"model.language_model.{name}" for position, name in LLAMA.items()},
    "paligemma": {position: f"model.language_model.{name}" for position, name in LLAMA.items()},
    "gemma3": {position: f"model.language_model.{name}" for position, name in LLAMA.items()},
    "git": {"self": "git.encoder.layer.0.attention.output.dense", "ffn": "git.encoder.layer.0.output.dense"},
    "mllama": {
        "self": "model.language_model.layers.0.self_attn.o_proj",
        "cross": "model.language_model.layers.1.cross_attn.o_proj",
        "ffn": "model.language_model.layers.0.mlp.down_proj",
    },
}
COUNT = {
    "t5": (4, 2, 4),
    "bart": (4, 2, 4),
    "blip": (2, 2, 2),
    "mllama": (2, 2, 4),
}  # of each position; others: two layers without cross


def places(family, **settings):
    model = FAMILIES[family].make()
    handle = instrument(model)
    chosen = find_places(model, handle.sites.values(), GraphAdapterConfig(**settings))
    handle.remove()
    return {name: place.position for name, place in chosen.items()}


def error(family, **settings):
    with pytest.raises(UserError) as caught:
        get_peft_model(FAMILIES[family].make(), GraphAdapterConfig(**settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults(family):
    chosen = places(family)
    count = COUNT.get(family, (2, 0, 2))
    assert (
        tuple(sum(position == x for x in chosen.values()) for position in ("self", "cross", "ffn")) == count
    )
    assert {name: chosen[name] for name in LAYER[family].values()} == {
        name: x for x, name in LAYER[family].items()
    }
    for position, name in LAYER[family].items():
        alone = places(family, positions=position)
        assert name in alone and set(alone.values()) == {position}


@pytest.mark.parametrize(
    "names",
    [
        ["self_attn"],
        ["out_proj"],
        ["model.encoder.layers.0.self_attn"],
        r".*encoder\.layers.*self_attn",
        r"model\.encoder\.layers\.0\.self_attn\.out_proj",
    ],
)
def test_attention_layers_by_name(names):
    chosen = places("bart", target_modules=names)
    assert "model.encoder.layers.0.self_attn.out_proj" in chosen
    assert all("attn" in name or name.endswith("fc2") for name in chosen)
    if len(names) == 1 and "layers.0" in names[0]:  # the feed-forward blocks of the chosen layers
        assert set(chosen) == {"model.encoder.layers.0.self_attn.out_proj", "model.encoder.layers.0.fc2"}


def test_a_vision_encoder_alone_is_adapted_and_one_among_others_by_name():
    chosen = places("llava", target_modules=r".*vision_tower.*self_attn")
    assert chosen and all("vision_tower" in name for name in chosen)
    assert any("mlp.fc2" in name for name in chosen)
    assert set(places("llava", exclude=["layers.1.self_attn", "layers.1.mlp.down_proj"])) == {
        "model.language_model.layers.0.self_attn.o_proj",
        "model.language_model.layers.0.mlp.down_proj",
    }


def test_feed_forward_blocks_by_name():
    assert set(places("llama", positions="ffn", ffn_modules=["0.mlp.up_proj"])) == {
        "model.layers.0.mlp.up_proj"
    }


def test_the_matrices_of_lora_are_no_feed_forward_blocks():
    lora = LoraConfig(r=2, target_modules=["down_proj"])
    model = get_peft_model(FAMILIES["llama"].make(), lora)
    settings = GraphAdapterConfig(positions="ffn", ffn_modules=r".*down_proj.*")
    handle = instrument(model.get_base_model())
    names = [f"model.layers.{k}.mlp.down_proj" for k in (0, 1)]
    assert list(find_places(model.get_base_model(), handle.sites.values(), settings)) == names
    handle.remove()
    with pytest.raises(UserError, match="ffn_modules: '.*lora_A.*' matches no linear layer"):
        get_peft_model(model, GraphAdapterConfig(positions="ffn", ffn_modules=r".*lora_A.*"), "other")
    get_peft_model(model, settings, "graph")
    layers = [module.name for module in model.modules() if isinstance(module, GraphLayer)]
    assert layers == names


def test_what_is_not_there_is_said_with_what_is():
    assert (
        "target_modules: 'nothing' matches no attention layer of BartForConditionalGeneration: it has "
        "model.encoder.layers.0.self_attn, " in error("bart", target_modules=["nothing"])
    )
    assert "ffn_modules: 'nothing' matches no linear layer of GPT2LMHeadModel" in error(
        "gpt2", ffn_modules="nothing"
    )
    assert (
        "no attention layer for positions cross in GPT2LMHeadModel: it has transformer.h.0.attn (self)"
        in error("gpt2", positions="cross")
    )


@pytest.mark.parametrize(
    "field, names, kind",
    [
        ("target_modules", ["layers.0.self_attn", "layers.9.self_attn"], "attention layer"),
        ("ffn_modules", ["0.mlp.down_proj", "9.mlp.down_proj"], "linear layer"),
        ("exclude", ["layers.0.self_attn", "layers.9.self_attn"], "attention or linear layer"),
        ("exclude", r".*layers\.9.*", "attention or linear layer"),
    ],
)
def test_every_name_must_be_there(field, names, kind):
    missing = names if isinstance(names, str) else names[1]
    assert f"{field}: {missing!r} matches no {kind} of LlamaForCausalLM: it has " in error(
        "llama", **{field: names}
    )


def test_a_module_to_save_must_be_there():
    assert "modules_to_save: 'classifier' ends the name of no module of LlamaForCausalLM" in error(
        "llama", modules_to_save=["lm_head", "classifier"]
    )


def test_an_unknown_feed_forward_block_asks_for_a_name():
    model = FAMILIES["llama"].make()
    for layer in model.model.layers:
        layer.mlp.strange = layer.mlp.__dict__["_modules"].pop("down_proj")
    with pytest.raises(
        UserError, match=r"or name it with ffn_modules=\[...\] \(linear layers there: .*mlp.strange"
    ):
        get_peft_model(model, GraphAdapterConfig(positions=("self", "ffn")))


def test_an_image_encoder_is_not_adapted_for_want_of_a_text_that_can_be_read():
    model = hf.VisionTextDualEncoderModel(
        vision_model=hf.ViTModel(hf.ViTConfig(**VISION)),
        text_model=hf.YosoModel(hf.YosoConfig(**TEXT)),
    )
    with pytest.raises(
        UserError, match="language side of VisionTextDualEncoderModel can't be read .text_model.encoder"
    ):
        get_peft_model(model, GraphAdapterConfig())
    assert get_peft_model(model, GraphAdapterConfig(target_modules=r"vision_model.*attention"))


def test_an_image_encoder_with_a_text_decoder():
    vision, text = hf.ViTModel(hf.ViTConfig(**VISION)), FAMILIES["gpt2"].make().config
    text.add_cross_attention = True
    model = hf.VisionEncoderDecoderModel(encoder=vision, decoder=hf.GPT2LMHeadModel(text))
    handle = instrument(model)
    chosen = find_places(model, handle.sites.values(), GraphAdapterConfig())
    assert all(name.startswith("decoder.transformer.h") for name in chosen)
    assert sorted(place.position for place in chosen.values()) == ["cross"] * 2 + ["ffn"] * 2 + ["self"] * 2


WINDOW = {name: value for name, value in GQA.items() if name != "model_type"}
EXPERTS = dict(num_experts_per_tok=2, moe_intermediate_size=8)
LATENT = dict(q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, num_key_value_heads=4)
ROUTED = dict(n_routed_experts=4, n_group=2, topk_group=1, first_k_dense_replace=1)
HYBRID = dict(
    linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=4, linear_value_head_dim=4
)
DIM = dict(head_dim=4)
BLOCKS = r"no graph adapter follows the feed-forward blocks of model.layers.{} .experts"
GATE = (
    r"no adapter can follow model.layers.{}.self_attn: the attention output is changed before o_proj \({}\), "
    "so that a graph's messages cannot take its place"
)
PARTLY = {  # how many adapters, in attention and in feed-forward blocks, and what is said
    "Mixtral": (dict(num_local_experts=2), (2, 0), BLOCKS.format(r"\*")),
    "Qwen3Moe": (dict(num_experts=4, **EXPERTS, **DIM, mlp_only_layers=[0]), (2, 1), BLOCKS.format(1)),
    "Olmoe": (dict(num_experts=4, num_experts_per_tok=2), (2, 0), BLOCKS.format(r"\*")),
    "GptOss": (dict(num_local_experts=4, num_experts_per_tok=2, **DIM), (2, 0), BLOCKS.format(r"\*")),
    "DeepseekV3": (dict(**LATENT, **ROUTED, **EXPERTS, v_head_dim=8), (2, 1), BLOCKS.format(1)),
    "CTRL": (dict(n_embd=16, dff=24, n_layer=2, n_head=4, n_positions=32), (2, 2), None),
    "RecurrentGemma": (dict(num_hidden_layers=3, lru_width=16, **DIM), (1, 1), None),
}
REFUSED = {
    "DeepseekV3": (
        dict(**LATENT, **ROUTED, **EXPERTS, v_head_dim=4),
        "self_attn: queries have 8 features per head and values 4, .* any other attention layer of Deepseek"
        "V3ForCausalLM .positions=.ffn. adapts its feed-forward blocks alone",
    ),
    "Qwen3Next": (
        dict(num_hidden_layers=4, num_experts=4, **EXPERTS, **DIM, **HYBRID),
        GATE.format(3, "a gate") + "; nor can one follow any other attention layer of Qwen3NextForCausalLM$",
    ),
    "BitNet": ({}, GATE.format(0, "attn_sub_norm")),
}


def new(name, settings):
    taken = {} if name == "CTRL" else WINDOW
    made = getattr(hf, f"{name}Config")(**{"vocab_size": 40, **taken, **settings})
    return getattr(hf, f"{name}LMHeadModel" if name == "CTRL" else f"{name}ForCausalLM")(made)


@pytest.mark.parametrize("name", PARTLY)
def test_what_no_adapter_can_follow_is_left_out_by_default(name):
    settings, counts, said = PARTLY[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = get_peft_model(new(name, settings), config(reduction=4)).train()
    lines = [str(x.message) for x in caught if "no graph adapter follows" in str(x.message)]
    assert len(lines) == (said is not None) and (said is None or re.search(said, lines[0]))
    layers = [module for module in model.modules() if isinstance(module, GraphLayer)]
    attention = sum(isinstance(layer, OutputLayer) for layer in layers)
    assert (attention, len(layers) - attention) == counts
    model(words(), use_cache=False).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)
    if counts[1] == 0:
        with pytest.raises(UserError, match="feed-forward block is known in .*: leave ffn out of positions"):
            get_peft_model(new(name, settings), GraphAdapterConfig(positions=("self", "ffn")))


def test_a_sum_before_the_projection_is_no_gate():
    class Summing(hf.models.llama.modeling_llama.LlamaAttention):
        def forward(self, x, attention_interface=None):
            output, _ = attention_interface(self, x)
            output = output + x
            return self.o_proj(output)

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


def test_a_failed_attempt_leaves_the_model_as_it_was():
    model = FAMILIES["bart"].make()
    state = [type(module) for module in model.modules()]
    with pytest.raises(UserError):
        get_peft_model(model, GraphAdapterConfig(target_modules=["nothing"]))
    assert [type(module) for module in model.modules()] == state
    assert model.config._attn_implementation == "sdpa" and not any(
        m._forward_pre_hooks for m in model.modules()
    )
