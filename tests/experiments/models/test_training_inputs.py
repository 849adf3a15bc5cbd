"""What families train on: the answer and the end token, whatever the batch, as the model's own class
computes it."""

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from experiments.models import Sample
from experiments.models.losses import IGNORED, token_losses
from tests.experiments.models.writers import SAMPLES, WRITERS, by_hand, end_of, load


@pytest.fixture(params=WRITERS, scope="module")
def family(request):
    return load(request.param)


def read_ids(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The ids that the labels belong to."""
    return inputs["decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"]


def run(family, samples):
    """Inputs, labels and logits."""
    inputs = family.training_inputs(samples)
    labels = inputs.pop("labels")
    with torch.no_grad():
        return inputs, labels, family.logits(inputs)


def test_labels_are_the_answer_and_the_end_at_their_places(family):
    inputs, labels, logits = run(family, SAMPLES)
    assert logits.shape[:2] == labels.shape
    for sample, row, ids in zip(SAMPLES, labels, read_ids(inputs)):
        places = (row != IGNORED).nonzero()[:, 0]
        assert places.tolist() == list(range(int(places[0]), int(places[-1]) + 1)) and places[0] > 0
        words = family.tokenizer.convert_ids_to_tokens(row[places].tolist())
        assert words[:-1] == sample.answer.split() and row[places[-1]] == end_of(family)
        assert torch.equal(ids[places], row[places])


def test_logits_are_those_of_the_models_own_class(family):
    _, labels, logits = run(family, SAMPLES)
    for sample, row, computed in zip(SAMPLES, labels, logits):
        expected = by_hand(family, sample)
        places = (row != IGNORED).nonzero()[:, 0]
        assert places[0] == expected.prompt and len(places) == len(expected.ids) - expected.prompt
        window = slice(expected.prompt - 1, len(expected.ids))
        torch.testing.assert_close(computed[window], expected.logits[window], rtol=1e-4, atol=1e-4)


def test_a_batch_changes_no_loss(family):
    _, labels, logits = run(family, SAMPLES)
    together = token_losses(logits, labels).sum(1)
    alone = []
    for sample in SAMPLES:
        _, labels, logits = run(family, [sample])
        alone.append(token_losses(logits, labels).sum())
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-4)
    assert together.unique().numel() == len(SAMPLES)


def test_prompt_and_image_matter(family):
    """So that the tests above could fail: another prompt or picture gives another loss."""

    def loss(sample):
        _, labels, logits = run(family, [sample])
        return token_losses(logits, labels).sum()

    sample = SAMPLES[0]
    changes = {"prompt": "star a"}, {"image": SAMPLES[1].image}, {"image": family.blank_image()}
    for change in changes:
        assert (loss(replace(sample, **change)) - loss(sample)).abs() > 1e-3, change


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """Marks spaces as GPT-2 and Qwen do."""
    names = ["<pad>", "<s>", "</s>", "<unk>", "a", "red", "ball", "\u0120a", "\u0120red", "\u0120ball"]
    words = Tokenizer(WordLevel({name: k for k, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer, words.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    special = dict(pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def test_a_vocabulary_of_bytes_holds_the_space_before_the_answer():
    """The models write " ball" after "red", in one token; after a newline or a special token "ball"."""
    family = load("captioner")
    family.tokenizer = bytes_tokenizer()

    def tokens(answer, before):
        return family.tokenizer.convert_ids_to_tokens(family.answer_ids(answer, before))

    assert tokens("ball", "a red") == tokens("ball", "Assistant:") == ["\u0120ball"]
    assert tokens("ball", "") == tokens("ball", "assistant\n") == tokens("ball", "a</s>") == ["ball"]
    assert tokens("", "a red") == []
    inputs = family.training_inputs([Sample("one", SAMPLES[0].image, "a red", "ball a"), SAMPLES[1]])
    written = [family.tokenizer.decode(row) for row in inputs["decoder_input_ids"]]
    assert written[0].startswith("</s>a red ball a</s>")
