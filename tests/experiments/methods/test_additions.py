"""What methods add to a model, in every family that writes answers, with weights as if they were trained."""

from dataclasses import replace

import pytest
import torch
from peft import PeftModel, PeftModelForCausalLM, PromptEncoderConfig, PromptTuningConfig
from torch import Tensor

from attngraph.errors import UserError
from attngraph.experiments.methods import Tuned, method_named
from attngraph.experiments.methods.peft import attention_projections, method_of_config
from attngraph.experiments.methods.settings import Settings
from attngraph.experiments.models import Decoding, ModelFamily
from attngraph.experiments.models.batch import IGNORED
from attngraph.experiments.models.blip import CHECKPOINT
from tests.attngraph.reading.zoo import FAMILIES as ZOO
from tests.experiments.models.test_contract import ANSWERS, check_ranking, check_words, inside, run
from tests.experiments.models.writers import SAMPLES, WRITERS, load

SETTINGS = {
    "pgnn": {"gnn": "pgnn", "gnn_args": {"p": 1.25, "mu": 0.1}, "join": "replace", "reduction": 4},
    "lora": {"r": 2, "alpha": 16, "dropout": 0.0, "targets": ["query", "value"]},
    "prefix": {"tokens": 3, "projection": None},
    "prompt_tuning": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3},
    "p_tuning": {"peft_type": "P_TUNING", "num_virtual_tokens": 2},
}
OWN_FILE = ("prefix", "prompt_tuning", "p_tuning")  # whose file is not PEFT's
# BLIP with all, and few families with one; all pairs in the slow run.
OFTEN = {*((name, "blip") for name in SETTINGS), ("pgnn", "mplug"), ("pgnn", "llava"), ("lora", "mplug")}
OFTEN |= {("prefix", "llava-chat"), ("prefix", "blip2"), ("lora", "qwen2-vl"), ("prefix", "git")}
OFTEN |= {("prompt_tuning", kind) for kind in ("blip-vqa", "mplug", "llava-chat", "qwen2-vl", "git")}
pairs = pytest.mark.parametrize(
    "name, kind",
    [
        pytest.param(name, kind, marks=[pytest.mark.slow] * ((name, kind) not in OFTEN))
        for kind in WRITERS
        for name in SETTINGS
        if not (kind == "blind" and name.endswith("_tuning"))
    ],
)
ANSWERED = [replace(sample, answer="red ball star") for sample in SAMPLES]


def tuned(name: str, family: ModelFamily, **settings) -> Tuned:
    made = method_named(name).apply(family, {**SETTINGS[name], **settings})
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters().values():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=draw))
    return made


def logits(family: ModelFamily) -> Tensor:
    """Of the answers' tokens."""
    _, labels, computed = run(family, ANSWERED)
    return computed[labels != IGNORED]


@pairs
def test_caches_later_words_and_padding_do_not_matter(name, kind):
    """Prompts of several lengths, padded; and answers are generated, with beams."""
    family = load(kind)
    tuned(name, family)
    check_words(family)
    check_ranking(family, SAMPLES, ANSWERS, 4)
    together = family.generate(SAMPLES, Decoding(6, 3))
    assert together == [family.generate([sample], Decoding(6, 3))[0] for sample in SAMPLES]


@pairs
def test_trained_saved_loaded_and_switched_off(name, kind, tmp_path):
    family = load(kind)
    family.model.requires_grad_(False)  # PyTorch may then add up in another order
    plain = logits(family)
    made = tuned(name, family)
    moved = logits(family)
    assert (moved - plain).abs().max() > 1e-2
    with family.unadapted():
        assert torch.equal(logits(family), plain)
    assert torch.equal(logits(family), moved)
    made.save(tmp_path)
    again, other = load(kind), load(kind)
    method_named(name).apply(again, SETTINGS[name]).load(tmp_path)
    assert torch.equal(logits(again), moved)
    if name not in OWN_FILE:
        PeftModel.from_pretrained(other.model, str(tmp_path)).eval()
        assert torch.equal(logits(other), moved)
    inputs = family.training_inputs(ANSWERED)
    labels = inputs.pop("labels")
    family.logits(inputs)[labels != IGNORED].log_softmax(-1)[:, 3].sum().backward()
    own = made.parameters()
    assert set(own) == {key for key, p in family.model.named_parameters() if p.requires_grad}
    assert own and all(inside(key, family.language_side()) for key in own)
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in own.values()
    )


@pytest.mark.parametrize(
    "config", [PromptTuningConfig(num_virtual_tokens=3), PromptEncoderConfig(num_virtual_tokens=3)]
)
def test_learned_tokens_are_those_of_peft(config):
    """PEFT's own wrapper of BLIP's decoder, which prepends embeddings, computes the same logits."""
    family, other = load("blip"), load("blip")
    method = method_of_config("one", config)
    made = method.apply(family, method.settings(Settings(), "vqa"))
    wrapped = PeftModelForCausalLM(other.model.text_decoder, replace(config))
    own = {key.rpartition("learned_tokens.")[2]: p for key, p in made.parameters().items()}
    wrapped.prompt_encoder["default"].load_state_dict(own)
    inputs, labels, computed = run(family, ANSWERED)
    _, _, plain = run(load("blip"), ANSWERED)
    with torch.no_grad():
        states = family.image_states(inputs)
        texts = {name: inputs[name][:, 3:] for name in ("input_ids", "attention_mask")}
        due = wrapped(**texts, encoder_hidden_states=states).logits
    valid = labels != IGNORED
    torch.testing.assert_close(computed[valid], due[valid])
    assert (computed[:, 3:] - plain).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["blip", "blip-vqa", "mplug", "qwen2-vl", "git"])
def test_learned_tokens_are_not_words(kind):
    """Limits of generation do not count them, inputs for analysis do not have them, and dropout in their
    network follows the model's mode.
    """
    family = load(kind)
    settings = dict(encoder_reparameterization_type="LSTM", encoder_dropout=0.5)
    tuned("p_tuning", family, num_virtual_tokens=8, **settings)
    assert torch.equal(logits(family), logits(family))
    inputs = family.batch(ANSWERED).inputs
    assert all((x >= 0).all() for name, x in inputs.items() if name.endswith("input_ids"))
    way = Decoding(8, min_new_tokens=8)
    written = family.generate(SAMPLES, way)
    assert written == [family.generate([sample], way)[0] for sample in SAMPLES]
    assert all(len(text.split()) == 8 for text in written)


@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float16])
def test_learned_tokens_are_finite_in_half_precision(weights):
    family = load("blip")
    family.model.to(weights)
    made = tuned("prompt_tuning", family)
    assert logits(family).isfinite().all()
    assert {p.dtype for p in made.parameters().values()} == {torch.float32}


@pytest.mark.parametrize(
    "kind, roles, ends",
    [
        ("llama", ["query", "value"], ["q_proj", "v_proj"]),
        ("gpt2", ["query", "value"], ["c_attn"]),
        ("t5", ["key", "output"], ["k", "o"]),
        ("bert", ["query", "output"], ["query", "dense"]),
        ("bloom", ["query"], ["query_key_value"]),
        ("mpt", ["value"], ["Wqkv"]),
    ],
)
def test_projections_are_found_by_their_roles(kind, roles, ends):
    names = attention_projections(ZOO[kind].model(), roles)
    assert list(dict.fromkeys(name.rpartition(".")[2] for name in names)) == ends
    assert len(names) == len(set(names))


def test_what_is_refused(tmp_path):
    """Settings out of range, unknown projections, and the weights of a run with other settings."""
    family = load("blip")
    for name, settings, message in (
        ("lora", dict(r=0), "settings of lora: field r: "),
        ("lora", dict(alpha=float("nan")), "settings of lora: field alpha: "),
        ("lora", dict(targets=["quary"]), "settings of lora: field targets.0: "),
        ("prefix", dict(tokens=0), "settings of prefix: field tokens: "),
        (
            "prompt_tuning",
            dict(num_virtual_tokens=None),
            "num_virtual_tokens is None: choose a number from 1 ",
        ),
        ("prompt_tuning", dict(num_virtual_tokens=10**6), "num_virtual_tokens is 1000000: choose a number "),
        (
            "prompt_tuning",
            dict(prompt_tuning_init="text"),
            "settings of prompt_tuning: 'text' is not a valid ",
        ),
        (
            "prompt_tuning",
            dict(
                prompt_tuning_init="TEXT",
                prompt_tuning_init_text="yellow",
                tokenizer_name_or_path=str(CHECKPOINT),
            ),
            "settings of prompt_tuning: the model has no embeddings for tokens of ",
        ),
        ("p_tuning", dict(encoder_hidden_size=0), "settings of p_tuning: encoder_hidden_size is 0"),
        ("prompt_tuning", dict(modules_to_save=["cls"]), "modules_to_save is not supported with learned "),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            tuned(name, family, **settings)
    with pytest.raises(UserError, match="has no query projection with a known name, only"):
        attention_projections(ZOO["xlnet"].model(), ["query"])
    with pytest.raises(UserError, match="does not support learned tokens: choose another method"):
        tuned("prompt_tuning", load("blind"))
    tuned("prefix", load("blip")).save(tmp_path)
    with pytest.raises(UserError, match="prefix.safetensors does not fit this model"):
        tuned("prefix", load("blip"), tokens=4).load(tmp_path)
