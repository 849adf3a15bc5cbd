"""BLIP's question encoder and answer decoder: its own class's numbers, and padding that nobody looks at."""

from dataclasses import replace

import pytest
import torch
from transformers import BertTokenizerFast, BlipForQuestionAnswering

from attngraph.errors import UserError
from experiments.models import Sample, load_family
from experiments.models.blip_vqa import prepare_tokenizer
from experiments.models.losses import IGNORED, token_losses
from experiments.models.mini_blip import preprocess
from tests.experiments.models.writers import SAMPLES
from tests.experiments.tiny import save


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save("blip-vqa", tmp_path_factory.mktemp("blip-vqa"))


@pytest.fixture(scope="module")
def family(folder):
    return load_family(folder)


def losses(family, samples) -> torch.Tensor:
    inputs = family.training_inputs(samples)
    labels = inputs.pop("labels")
    with torch.no_grad():
        return token_losses(family.logits(inputs), labels).sum(1)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_the_loss_is_that_of_transformers_where_nothing_is_padded(family, folder, sample):
    """Its forward method takes labels, and gives their mean loss."""
    model = BlipForQuestionAnswering.from_pretrained(folder, attn_implementation="eager").eval()
    words = family.tokenizer
    question = words(sample.prompt, add_special_tokens=False)["input_ids"]
    question = torch.tensor([[words.convert_tokens_to_ids("[ENC]"), *question, words.sep_token_id]])
    answer = words(sample.answer, add_special_tokens=False)["input_ids"]
    answer = torch.tensor([[words.bos_token_id, *answer, words.sep_token_id]])
    with torch.no_grad():
        output = model(
            pixel_values=preprocess([sample.image], 8),
            input_ids=question,
            attention_mask=torch.ones_like(question),
            decoder_input_ids=answer,
            labels=answer.masked_fill(answer == words.bos_token_id, IGNORED),
        )
    expected = output.loss * (answer.shape[1] - 1)
    torch.testing.assert_close(losses(family, [sample])[0], expected.squeeze(), rtol=1e-4, atol=1e-4)


def test_padding_of_the_question_changes_no_logits(family):
    """transformers' own class lets the answer look at it."""
    short = SAMPLES[0]
    inputs = family.training_inputs([short, replace(short, prompt="a red ball star a red ball star")])
    assert (inputs["question_mask"].sum(1) == torch.tensor([3, 10])).all()
    inputs.pop("labels")
    with torch.no_grad():
        together = family.logits(inputs)
        garbled = inputs["question_ids"].masked_fill(inputs["question_mask"] == 0, 7)
        other_padding = family.logits(inputs | {"question_ids": garbled})
        alone = family.logits(_without_labels(family, [short]))
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-4)
    assert torch.equal(together, other_padding)


def _without_labels(family, samples):
    return {key: x for key, x in family.training_inputs(samples).items() if key != "labels"}


def test_long_questions_keep_start_and_end(family):
    inputs = family.training_inputs([replace(SAMPLES[0], prompt="a red ball " * 50)])
    ids = inputs["question_ids"][0]
    assert len(ids) == family.longest and ids[-1] == family.tokenizer.sep_token_id
    assert family.tokenizer.convert_ids_to_tokens(int(ids[0])) == "[ENC]"


def test_a_question_is_needed(family):
    with pytest.raises(UserError, match="answers questions: give --texts"):
        family.check([Sample("one", SAMPLES[0].image)])
    with pytest.raises(UserError, match="looks at images: give --images"):
        family.check([Sample("one", None, "a", "red")])
    family.check([Sample("one", SAMPLES[0].image, "", "a red ball")])


def test_start_tokens(family):
    """``[ENC]`` where the model has an embedding for it, else ``[CLS]``; another end token is refused."""

    def words() -> BertTokenizerFast:
        names = "[PAD] [UNK] [CLS] [SEP] [MASK] a red".split()
        return BertTokenizerFast(vocab={name: k for k, name in enumerate(names)})

    def config(size: int, end: int = 3):
        changed = type(family.model.config).from_dict(family.model.config.to_dict())
        changed.text_config.vocab_size, changed.text_config.bos_token_id = size, 7
        changed.text_config.sep_token_id = end
        return changed

    with_both, with_one = prepare_tokenizer(words(), config(9)), prepare_tokenizer(words(), config(8))
    assert with_both.get_vocab()["[ENC]"] == 8 and "[ENC]" not in with_one.get_vocab()
    assert with_both.bos_token == with_one.bos_token == "[DEC]" and with_both.bos_token_id == 7
    with pytest.raises(UserError, match="start or end token is not the model's"):
        prepare_tokenizer(words(), config(9, end=2))
