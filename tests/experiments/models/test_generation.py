"""Prefix, padding, caching and loss of the decoder, on a small untrained model."""

import pytest
import torch

from attngraph.errors import UserError
from experiments.models.generation import (
    IGNORED,
    decoder_logits,
    decoder_loss,
    encode_images,
    frozen_image_states,
    generate_text,
    sequence_batch,
)
from experiments.models.mini_blip import build_model
from experiments.pretraining.tokenizer import build_tokenizer

WORDS = "how many red circles are there is the star left of a square one two three with two".split()
PROMPTS = ["", "how many red circles are there ?", "is the star left of a square", "a circle"]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(WORDS)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    model = build_model(tokenizer, width=32, vision_layers=1, text_layers=2, heads=4).eval()
    with (
        torch.no_grad()
    ):  # far from zero, so that generated texts differ; words only, and now and then an end
        for name, parameter in model.text_decoder.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(3 if "embeddings" in name else 8)
        bias = model.text_decoder.cls.predictions.bias
        bias.fill_(-100)
        bias[[tokenizer.convert_tokens_to_ids(word) for word in WORDS]] = 0
        bias[tokenizer.sep_token_id] = 0.5
    return model


@pytest.fixture(scope="module")
def states(model):
    return frozen_image_states(model, torch.randn(len(PROMPTS), 3, 64, 64), batch_size=3)


def test_frozen_states_equal_trainable_ones(model):
    pixels = torch.randn(3, 3, 64, 64)
    trainable = encode_images(model, pixels)
    assert trainable.shape == (3, 65, 32) and trainable.requires_grad
    assert torch.allclose(frozen_image_states(model, pixels, batch_size=2), trainable, atol=1e-5)


def test_more_tokens_than_positions_are_refused(model, tokenizer, states):
    longest = tokenizer.model_max_length
    options = dict(min_new_tokens=longest, max_new_tokens=longest)
    (text,) = generate_text(model, tokenizer, states[:1], [PROMPTS[1]], **options)
    assert len(text.split()) > longest - 5, "so many can be written"
    with pytest.raises(
        UserError, match=f"max_new_tokens is {longest + 1}, and the model has {longest} positions"
    ):
        generate_text(model, tokenizer, states[:1], [PROMPTS[1]], max_new_tokens=longest + 1)


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_does_not_depend_on_padding_or_cache(model, tokenizer, states, beams):
    together = generate_text(model, tokenizer, states, PROMPTS, max_new_tokens=8, num_beams=beams)
    alone = [
        generate_text(model, tokenizer, states[i : i + 1], [prompt], max_new_tokens=8, num_beams=beams)[0]
        for i, prompt in enumerate(PROMPTS)
    ]
    uncached = generate_text(
        model, tokenizer, states, PROMPTS, max_new_tokens=8, num_beams=beams, use_cache=False
    )
    assert together == alone
    assert together == uncached
    assert len(set(together)) > 1  # the model says something, and not the same everywhere


def test_greedy_generation_follows_the_training_logits(model, tokenizer, states):
    text = generate_text(model, tokenizer, states, PROMPTS, max_new_tokens=6)
    for i, prompt in enumerate(PROMPTS):
        batch = sequence_batch(tokenizer, [prompt], [text[i]])
        logits = decoder_logits(model, states[i : i + 1], batch)[0]
        first = (batch["labels"][0] != IGNORED).nonzero()[0, 0]
        expected = logits[first - 1].argmax()
        assert batch["labels"][0, first] == expected


def test_batch_layout(tokenizer):
    batch = sequence_batch(tokenizer, ["a star", ""], ["two", "one square"])
    decoded = [tokenizer.convert_ids_to_tokens(row) for row in batch["input_ids"].tolist()]
    assert decoded == [["[DEC]", "a", "star", "two", "[SEP]"], ["[DEC]", "one", "square", "[SEP]", "[PAD]"]]
    assert (batch["labels"] != IGNORED).tolist() == [
        [False, False, False, True, True],
        [False, True, True, True, False],
    ]
    assert batch["attention_mask"].sum(1).tolist() == [5, 4]
    assert batch["position_ids"][1].tolist() == [0, 1, 2, 3, 4]


def test_loss_covers_answer_and_end_token_only(model, tokenizer, states):
    batch = sequence_batch(tokenizer, PROMPTS, ["two", "three", "a star", "red"])
    loss = decoder_loss(model, states, batch)
    log_probabilities = decoder_logits(model, states, batch).log_softmax(-1)
    by_hand = [
        -log_probabilities[b, i - 1, batch["labels"][b, i]]
        for b in range(len(PROMPTS))
        for i in range(1, batch["labels"].shape[1])
        if batch["labels"][b, i] != IGNORED
    ]
    assert len(by_hand) == 2 + 2 + 3 + 2
    assert torch.allclose(loss, torch.stack(by_hand).mean(), atol=1e-5)
    per_text = decoder_loss(model, states, batch, reduction="none")
    assert per_text.shape == (4,) and torch.allclose(per_text.sum(), torch.stack(by_hand).sum(), atol=1e-4)
    assert decoder_loss(model, states, batch, label_smoothing=0.1) != loss


def test_loss_does_not_depend_on_padding(model, tokenizer, states):
    answers = ["two", "three", "a star", "red"]
    together = decoder_loss(model, states, sequence_batch(tokenizer, PROMPTS, answers), reduction="none")
    for i, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
        alone = decoder_loss(model, states[i : i + 1], sequence_batch(tokenizer, [prompt], [answer]))
        count = len(answer.split()) + 1
        assert torch.allclose(together[i] / count, alone, atol=1e-4)


def test_long_texts_are_cut_to_the_positions_of_the_model(model, tokenizer, states):
    long = "circle " * 300
    batch = sequence_batch(tokenizer, [long, long], ["two", long])
    assert batch["input_ids"].shape[1] == tokenizer.model_max_length
    assert batch["input_ids"][0, -1] == batch["input_ids"][1, -1] == tokenizer.sep_token_id
    assert torch.isfinite(decoder_loss(model, states[:2], batch))
    assert len(generate_text(model, tokenizer, states[:1], [long], max_new_tokens=5)) == 1
