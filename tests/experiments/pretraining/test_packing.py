"""Packed rows give the losses of separate texts."""

import pytest
import torch

from experiments.models.batch import IGNORED, token_losses
from experiments.models.generation import decoder_logits, encode_images, sequence_batch
from experiments.models.mini_blip import build_model
from experiments.pretraining.minis import MINIS
from experiments.pretraining.packing import block_causal_mask, pack
from experiments.pretraining.recipe import Recipe
from experiments.pretraining.steps import Steps
from experiments.pretraining.tokenizer import build_tokenizer
from experiments.scenes.vocabulary import all_words

TEXTS = [
    [("how many red circles ?", "2"), ("caption :", "a red circle and a red circle"), ("", "yes")],
    [("the color of the star :", "green"), ("how many things ?", "1"), ("", "a green star")],
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(all_words())


def test_packed_loss_equals_the_loss_of_separate_texts(tokenizer):
    torch.manual_seed(0)
    model = build_model(tokenizer, width=32, vision_layers=1, text_layers=2).eval()
    states = encode_images(model, torch.randn(2, 3, 64, 64))
    packed = pack(tokenizer, TEXTS, row_length=40)
    packed["attention_mask"] = block_causal_mask(packed["segments"])
    rows = [(image, *pair) for image, pairs in enumerate(TEXTS) for pair in pairs]
    images, prompts, answers = map(list, zip(*rows, strict=True))
    separate = sequence_batch(tokenizer, prompts, answers)
    assert (packed["labels"] != IGNORED).sum() == (separate["labels"] != IGNORED).sum()
    expected = token_losses(decoder_logits(model, states[images], separate), separate["labels"]).sum()
    found = token_losses(decoder_logits(model, states, packed), packed["labels"]).sum()
    torch.testing.assert_close(found, expected)


def test_texts_that_do_not_fit_are_left_out(tokenizer):
    packed = pack(tokenizer, TEXTS, row_length=10)
    assert packed["segments"].tolist() == [[1] * 8 + [0] * 2, [1] * 9 + [0]]
    assert packed["position_ids"][0].tolist() == [*range(8), 0, 0]


def test_scenes_use_no_word_outside_the_vocabulary(tokenizer):
    arrange = MINIS["mini-blip"].arrange(tokenizer, Recipe(row_length=200))
    ids = Steps(arrange, seed=5, steps=1, images=40, texts=8)[0]["input_ids"]
    tokens = set(tokenizer.convert_ids_to_tokens(ids.flatten().tolist()))
    assert "[UNK]" not in tokens and not any(token.startswith("##") for token in tokens)
