"""Generation sees the prompt that training sees: greedy texts are the argmax of the training logits, step by
step."""

from dataclasses import replace

import pytest
import torch

from experiments.models import Decoding, ModelFamily
from experiments.models.losses import IGNORED
from tests.experiments.models.writers import SAMPLES, WRITERS, embedding_layer, end_of, load

LENGTH = 5  # tokens, the end included


@pytest.fixture(params=WRITERS, scope="module")
def family(request):
    return load(request.param)


@torch.no_grad()
def step_by_step(family: ModelFamily, sample) -> str:
    """Argmax decoding through ``training_inputs`` and ``logits`` alone."""
    words: list[str] = []
    while len(words) < LENGTH:
        inputs = family.training_inputs([replace(sample, answer=" ".join(words))])
        labels = inputs.pop("labels")
        last = int((labels[0] != IGNORED).nonzero()[-1])  # the end token, which is to be replaced
        token = int(family.logits(inputs)[0, last - 1].argmax())
        if token == end_of(family):
            break
        words.append(family.tokenizer.convert_ids_to_tokens(token))
    return " ".join(words)


def test_greedy_texts_are_the_argmax_of_training_logits(family):
    texts = family.generate(SAMPLES, Decoding(LENGTH))
    assert texts == [step_by_step(family, sample) for sample in SAMPLES]
    lengths = [len(text.split()) for text in texts]
    assert len(set(texts)) == len(SAMPLES) and min(lengths) < LENGTH  # they depend on the samples, and end


@pytest.mark.parametrize("beams", [1, 3])
def test_a_batch_changes_no_text(family, beams):
    decoding = Decoding(LENGTH, beams)
    together = family.generate(SAMPLES, decoding)
    assert together == [family.generate([sample], decoding)[0] for sample in SAMPLES]
    assert family.generate(SAMPLES[::-1], decoding) == together[::-1]


@pytest.mark.parametrize("beams", [1, 3])
def test_the_cache_changes_no_text(family, beams, monkeypatch):
    if hasattr(family.model, "qformer"):
        pytest.skip("the language model of BLIP-2 goes on from states, which it can only do with a cache")
    decoding, widths = Decoding(LENGTH, beams), []
    cached = family.generate(SAMPLES, decoding)
    writer = getattr(family.model, "text_decoder", family.model)
    write = writer.generate

    def without_cache(*args, generation_config, **inputs):
        generation_config.use_cache = False
        return write(*args, generation_config=generation_config, **inputs)

    monkeypatch.setattr(writer, "generate", without_cache)
    embed = embedding_layer(family)
    with monkeypatch.context() as patch:
        forward = embed.forward
        patch.setattr(embed, "forward", lambda ids: widths.append(ids.shape[-1]) or forward(ids))
        assert family.generate(SAMPLES, decoding) == cached
    assert widths[-1] > 1  # the last step read the whole text again


def test_the_number_of_tokens_is_limited_and_the_end_is_left_out(family):
    for length in (1, 2):
        for text in family.generate(SAMPLES, Decoding(length)):
            assert len(text.split()) <= length and "[" not in text


def test_a_higher_limit_goes_on_with_the_same_text(family):
    """With more new tokens than the prompt has."""
    short, long = (family.generate(SAMPLES, Decoding(length)) for length in (LENGTH, 24))
    for sample, first, whole in zip(SAMPLES, short, long):
        words = first.split()
        assert whole.split()[: len(words)] == words, sample.name
        assert whole == first or len(words) == LENGTH, sample.name


def test_a_model_that_names_several_ends_stops_at_each():
    """Chat models end a turn with one token and a text with another (Llama 3.2, Gemma 3)."""
    family = load("llava")
    before = family.generate(SAMPLES, Decoding(LENGTH))
    word = next(words[0] for words in map(str.split, before) if len(words) > 1)
    number = family.tokenizer.convert_tokens_to_ids(word)
    family.model.generation_config.eos_token_id = [end_of(family), number]
    after = family.generate(SAMPLES, Decoding(LENGTH))
    assert after != before
    for text, whole in zip(after, before):
        words = whole.split()
        assert text.split() == (words[: words.index(word) + 1] if word in words else words)
