"""mPLUG: its sizes and the mini-mPLUG's, saving and loading; questions without an end token, parts after
``[SEP]``, captions without a question."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig
from transformers.models.bert.modeling_bert import BertCrossAttention

from attngraph.errors import UserError
from attngraph.experiments.models import Decoding, Sample
from attngraph.experiments.models.blip import grid_positions
from attngraph.experiments.models.mplug import (
    QUESTION,
    QUESTION_IN_PARTS,
    MPlugConfig,
    MPlugForConditionalGeneration,
)
from attngraph.experiments.models.mplug.modeling import FusionLayer, JoinedLayer, build_mini
from attngraph.experiments.studies.pretrain import MINIS
from tests.experiments.models.mplug.inputs import inputs
from tests.experiments.models.writers import SAMPLES, load

CAPTIONS = [replace(sample, prompt="") for sample in SAMPLES]


@pytest.fixture(scope="module")
def family():
    return load("mplug")


def test_the_sizes_of_the_mini():
    tokenizer = MINIS["mini-mplug"].tokenizer()
    model = build_mini(tokenizer)
    assert 3e6 < model.num_parameters() <= 4e6, "in float16 that is within 8 MB"
    depths = [model.vision_model.encoder.layers, model.text_encoder.encoder.layer]
    assert [*map(len, depths), len(model.text_decoder.bert.encoder.layer)] == [4, 2, 4]
    kinds = [type(layer) for layer in model.fusion_encoder.layer]
    assert kinds == [FusionLayer, FusionLayer, FusionLayer, JoinedLayer]
    assert not any(module.p for module in model.modules() if isinstance(module, torch.nn.Dropout))
    assert model.config.vision_config.attention_dropout == 0
    positions = model.vision_model.embeddings.position_embedding.weight
    assert torch.equal(positions[1:], grid_positions(8, 128))
    asked, written = torch.full((2, 7), 5), torch.full((2, 4), 6)
    logits = model(torch.zeros(2, 3, 64, 64), asked, decoder_input_ids=written).logits
    assert logits.shape == (2, 4, len(tokenizer))


def test_it_comes_back_exactly(family, tmp_path):
    model = family.model
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), MPlugConfig)
    loaded, told = MPlugForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values()) and loaded.config.stride == model.config.stride
    state = loaded.state_dict()
    assert all(torch.equal(x, state[name]) for name, x in model.state_dict().items())
    decoder = loaded.text_decoder
    assert decoder.get_output_embeddings().weight is decoder.get_input_embeddings().weight


def test_gradient_checkpointing_changes_no_gradient():
    grads, model = [], load("mplug").model
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    for layer in model.vision_model.encoder.layers:
        layer.self_attn.dropout = 0.0
    model.train()
    for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        switch()
        model.zero_grad()
        model(**inputs()).logits.square().mean().backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-5)


def test_keys_of_what_the_decoder_looks_at_are_computed_once(family):
    crosses = [part for part in family.model.text_decoder.modules() if isinstance(part, BertCrossAttention)]
    projected = []
    hook = crosses[0].key.register_forward_hook(lambda *_: projected.append(1))
    family.generate(SAMPLES, Decoding(5, 3, min_new_tokens=5))
    hook.remove()
    assert len(projected) == 1


def asked(family, *prompts: str, training: bool = False) -> list[list[str]]:
    """The questions' tokens, without padding."""
    samples = [Sample(prompt, SAMPLES[0].image, prompt, "red") for prompt in prompts]
    given = family.question_inputs(samples, training)
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(*given.values(), strict=True)]
    return [family.tokenizer.convert_ids_to_tokens(row) for row in rows]


def test_questions(family, monkeypatch):
    """Long ones are cut in training."""
    found = asked(family, "a red ball", "a [SEP] red [SEP] ball star")
    assert found == [["[CLS]", "a", "red", "ball"], ["[CLS]", *"a [SEP] red [SEP] ball star".split()]]
    monkeypatch.setattr(family.tokenizer, "model_max_length", 200)
    plain, parts = "red " * 90, "a [SEP] " + "red " * 90
    assert [len(row) for row in asked(family, plain, parts, training=True)] == [QUESTION, QUESTION_IN_PARTS]
    assert [len(row) for row in asked(family, plain, parts)] == [91, 93]
    monkeypatch.setattr(family.tokenizer, "model_max_length", 32)
    assert [len(row) for row in asked(family, plain, parts)] == [32, 32]
    with pytest.raises(UserError, match=r"^long: no question, although other examples have one: MPlug"):
        family.training_inputs([SAMPLES[0], CAPTIONS[1]])


@torch.no_grad()
def test_captions_look_at_the_picture_alone():
    """Whatever the text encoder and the fusion do."""
    family = load("mplug")
    inputs = family.training_inputs(CAPTIONS)
    assert not {"question_ids", "question_mask"} & set(inputs)
    labels = inputs.pop("labels")
    logits, texts = family.logits(inputs), family.generate(CAPTIONS, Decoding(5))
    assert logits.shape[:2] == labels.shape
    for part in (family.model.text_encoder, family.model.fusion_encoder):
        for parameter in part.parameters():
            parameter.mul_(-2)
    assert torch.equal(family.logits(inputs), logits) and family.generate(CAPTIONS, Decoding(5)) == texts


@pytest.mark.parametrize("asks", [True, False])
def test_what_the_analysis_gets(family, asks):
    first, second, third = SAMPLES if asks else CAPTIONS
    batch = family.batch([first, replace(second, answer=None), third])
    assert ("input_ids" in batch.inputs) == asks and (batch.decoder is not None) == asks
    assert batch.written.tokens[0][0] == "[CLS]" and (batch.written.prompt == 1).all()
    with torch.no_grad():
        logits = family.model(**batch.inputs).logits
    assert logits.shape[:2] == batch.inputs["decoder_input_ids"].shape
    if asks:
        assert batch.text.tokens[0][:2] == ["[CLS]", "red"]
