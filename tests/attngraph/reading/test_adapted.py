"""Families whose attention is written out here, with adapters that change what they compute: nothing leaks
from later words, padding does not count, and decoding with a cache gives what the whole text gives."""

import pytest
import torch
from peft import get_peft_model

from adapters import GraphAdapterConfig
from tests.attngraph.reading.zoo import FAMILIES, words

DECODERS = (
    "bloom",
    "falcon",
    "falcon, alibi",
    "falcon, groups",
    "mpt",
    "gpt-neo",
    "xglm",
    "megatron-bert",
    "gemma3n, shared keys",
    "gemma4, shared keys",
)
ENCODERS = ("mpnet", "roformer", "rembert", "deberta", "deberta-v2")
LED = ("rembert, a decoder", "roformer, a decoder")


def adapted(name: str):
    torch.manual_seed(0)
    config = GraphAdapterConfig(gnn="pgnn", reduction=4, join="replace", init_weights=False)
    return get_peft_model(FAMILIES[name].model(), config).eval()


def run(model, **given) -> torch.Tensor:
    with torch.no_grad():
        return model(**given)[0]


@pytest.mark.parametrize("name", DECODERS)
def test_later_words_change_nothing(name):
    model, ids = adapted(name), words(8)
    want = run(model, input_ids=ids)
    with model.disable_adapter():
        assert (run(model, input_ids=ids) - want).abs().max() > 0.1
    for k in (2, 5, 7):
        other = torch.cat([ids[:, :k], ids[:, k:].flip(0)], 1)
        got = run(model, input_ids=other)
        torch.testing.assert_close(got[:, :k], want[:, :k], rtol=1e-5, atol=1e-5)
        assert (got[:, k:] - want[:, k:]).abs().max() > 0.1


@pytest.mark.parametrize("name", DECODERS)
def test_decoding_with_a_cache(name):
    model, ids = adapted(name), words(8)
    want = run(model, input_ids=ids)
    cache, got = None, []
    with torch.no_grad():
        for start, end in ((0, 4), (4, 5), (5, 6), (6, 8)):
            output = model(input_ids=ids[:, start:end], cache=cache, use_cache=True)
            cache = output.cache
            got.append(output.logits)
    torch.testing.assert_close(torch.cat(got, 1), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LED)
def test_decoding_with_a_cache_and_cross_attention(name):
    model = adapted(name)
    given = dict(pixel_values=FAMILIES[name].inputs()["pixel_values"], decoder_input_ids=words(6))
    want = run(model, **given)
    other = dict(given, decoder_input_ids=torch.cat([words(6)[:, :4], words(6)[:, 4:].flip(0)], 1))
    torch.testing.assert_close(run(model, **other)[:, :4], want[:, :4], rtol=1e-5, atol=1e-5)
    cache, got = None, []
    with torch.no_grad():
        for start, end in ((0, 3), (3, 4), (4, 6)):
            part = dict(given, decoder_input_ids=given["decoder_input_ids"][:, start:end])
            output = model(**part, cache=cache, use_cache=True)
            cache = output.cache
            got.append(output.logits)
    torch.testing.assert_close(torch.cat(got, 1), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_padding_does_not_count(name):
    model, ids = adapted(name), words(7)
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    together = run(model, input_ids=ids, attention_mask=mask)[1, :5]
    torch.testing.assert_close(together, run(model, input_ids=ids[1:, :5])[0], rtol=1e-4, atol=1e-4)
