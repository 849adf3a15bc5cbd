"""mPLUG's habits: questions without an end token, parts after ``[SEP]``, captions without a question."""

from dataclasses import replace

import pytest
import torch

from attngraph.errors import UserError
from experiments.models import Decoding, Sample, load_family
from experiments.models.mplug import QUESTION, QUESTION_IN_PARTS
from tests.experiments.models.writers import SAMPLES
from tests.experiments.tiny import save

CAPTIONS = [replace(sample, prompt="") for sample in SAMPLES]


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return load_family(save("mplug", tmp_path_factory.mktemp("mplug")))


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


@torch.no_grad()
def test_captions_look_at_the_picture_alone(tmp_path):
    """Whatever the text encoder and the fusion do."""
    family = load_family(save("mplug", tmp_path))
    inputs = family.training_inputs(CAPTIONS)
    assert not {"question_ids", "question_mask"} & set(inputs)
    labels = inputs.pop("labels")
    logits, texts = family.logits(inputs), family.generate(CAPTIONS, Decoding(5))
    assert logits.shape[:2] == labels.shape
    for part in (family.model.text_encoder, family.model.fusion_encoder):
        for parameter in part.parameters():
            parameter.mul_(-2)
    assert torch.equal(family.logits(inputs), logits) and family.generate(CAPTIONS, Decoding(5)) == texts


def test_questions_and_captions_do_not_mix(family):
    with pytest.raises(UserError, match=r"^long: no question, where other examples have one: MPlug"):
        family.training_inputs([SAMPLES[0], CAPTIONS[1]])


@pytest.mark.parametrize("asks", [True, False])
def test_what_the_analysis_gets(family, asks):
    samples = SAMPLES if asks else CAPTIONS
    batch = family.batch(
        [replace(sample, answer=None) if k == 1 else sample for k, sample in enumerate(samples)]
    )
    assert ("input_ids" in batch.inputs) == asks and (batch.decoder is not None) == asks
    assert batch.written.tokens[0][0] == "[CLS]" and (batch.written.prompt == 1).all()
    with torch.no_grad():
        logits = family.model(**batch.inputs).logits
    assert logits.shape[:2] == batch.inputs["decoder_input_ids"].shape
    if asks:
        assert batch.text.tokens[0][:2] == ["[CLS]", "red"]
