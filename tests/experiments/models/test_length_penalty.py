"""Penalties of lengths, against every text that there is; and that each family heeds them."""

import copy
import itertools

import pytest
import torch

from attngraph.errors import UserError
from experiments.models import Decoding
from experiments.models.length_penalty import ALPHA, EXPONENTS, GNMT, LENGTH, Gnmt
from tests.experiments.models.writers import SAMPLES, load

MOST = 2  # tokens
PENALTIES = {LENGTH: lambda t: t, GNMT: lambda t: ((5 + t) / 6) ** 0.6}


def test_the_exponent():
    for length in (1, 2, 25):
        assert length ** Gnmt(ALPHA) == PENALTIES[GNMT](length)
        assert length ** copy.deepcopy(EXPONENTS[GNMT]) == PENALTIES[GNMT](length)
        assert length ** EXPONENTS[LENGTH] == length


@torch.no_grad()
def log_probabilities(family, sample) -> dict[tuple[int, ...], float]:
    """Of every text: those that end, and those of ``MOST`` tokens."""
    words, end = family.model.text_decoder.config.vocab_size, family.tokenizer.sep_token_id
    found = {}
    for length in range(1, MOST + 1):
        texts = list(itertools.product([word for word in range(words) if word != end], repeat=length - 1))
        inputs = family.training_inputs([sample] * len(texts))
        start = inputs["input_ids"][:, :1]
        ids = torch.cat([start, torch.tensor(texts, dtype=torch.long).view(len(texts), -1)], 1)
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs["position_ids"] = torch.arange(length).expand_as(ids)
        steps = family.logits(inputs).log_softmax(-1)
        for text, step in zip(texts, steps):
            before = sum(step[k, word].item() for k, word in enumerate(text))
            for last in range(words) if length == MOST else [end]:
                found[(*text, last)] = before + step[-1, last].item()
    return found


@pytest.mark.parametrize("name", ["mplug", "blip-vqa"])
def test_the_best_of_all_texts_is_found(name):
    family = load(name)
    wide = family.model.text_decoder.config.vocab_size ** (MOST - 1)
    best = {penalty: [] for penalty in PENALTIES}
    for sample in SAMPLES:
        found = log_probabilities(family, sample)
        for penalty, of in PENALTIES.items():
            text = max(found, key=lambda ids: found[ids] / of(len(ids)))
            best[penalty].append(family.tokenizer.decode(text, skip_special_tokens=True).strip())
    assert best[LENGTH] != best[GNMT], "or the test shows nothing"
    for penalty, texts in best.items():
        assert family.generate(SAMPLES, Decoding(MOST, wide, length_penalty=penalty)) == texts


@pytest.mark.parametrize("name", ["blip", "mplug", "blip-vqa", "captioner", "llava"])
def test_families_heed_it_where_there_are_beams(name, monkeypatch):
    family, given = load(name), []
    writer = getattr(family.model, "text_decoder", family.model)
    write = writer.generate

    def noted(*args, generation_config, **inputs):
        given.append(generation_config.length_penalty)
        return write(*args, generation_config=generation_config, **inputs)

    monkeypatch.setattr(writer, "generate", noted)
    for beams, kind in ((1, float), (2, Gnmt)):
        given.clear()
        family.generate(SAMPLES, Decoding(2, beams, length_penalty=GNMT))
        assert {type(exponent) for exponent in given} == {kind}


def test_an_unknown_one_is_one_line():
    with pytest.raises(UserError, match="unknown length_penalty 'wu': choose from length, gnmt"):
        Decoding(length_penalty="wu")
