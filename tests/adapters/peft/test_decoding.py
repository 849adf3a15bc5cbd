"""Decoding with a key/value cache gives what a pass over the whole text gives."""

import copy

import pytest
import torch
import transformers as hf
from peft import get_peft_model
from transformers import DynamicCache, EncoderDecoderCache, StaticCache

from attngraph import UserError
from tests.adapters.peft import helpers
from tests.adapters.peft.blip_decoder import (
    JOINS,
    SCHEME_ARGS,
    VARIANTS,
    close,
    left_padded,
    logits,
    put,
    step,
)
from tests.adapters.peft.helpers import GENERATORS, config, families_and_schemes
from tests.adapters.peft_models import FAMILIES
from tests.attngraph.reading.zoo import GQA, IMAGE, far_from_zero
from tests.pairwise import pairwise_params

four_schemes = pytest.mark.parametrize("gnn", SCHEME_ARGS)


@pytest.mark.parametrize(
    "variant, join, chunks", pairwise_params(variant=VARIANTS, join=JOINS, chunks=[(1,) * 9, (3, 1, 1, 4)])
)
def test_cached_equals_uncached(variant, join, chunks, make_decoder, words, image_states):
    model = make_decoder()
    put(model, *variant, join=join)
    ids, mask, positions = left_padded(words)
    states = image_states()
    want, got, cache, end = logits(model, ids, states, mask, left=True), [], None, 0
    for size in chunks:
        start, end = end, end + size
        output, cache = step(model, ids[:, start:end], states, cache, mask[:, :end], positions[:, start:end])
        got.append(output)
    rows = mask.bool()
    close(torch.cat(got, 1)[rows], want[rows])


@pytest.mark.parametrize("gnn", ["appnp", "pgnn"])
@pytest.mark.filterwarnings("ignore:.*in spite of the tiled backend")
def test_the_tiled_backend_decodes_with_a_cache(gnn, make_decoder, words, image_states):
    """There it goes back to weights, which leave their degrees for the next step."""
    model = make_decoder()
    put(model, gnn, {"steps": 1}, join="replace", backend="tiled")
    ids, states = words(), image_states()
    _, cache = step(model, ids[:, :3], states, None)
    output, _ = step(model, ids[:, 3:], states, cache)
    close(output, logits(model, ids, states)[:, 3:])


def test_training_does_not_go_on_from_a_cache(make_decoder, words, image_states):
    """A training step starts from scores, which leave no degrees."""
    model = make_decoder()
    put(model).train()
    more = dict(encoder_hidden_states=image_states(), use_cache=True)
    cache = model(input_ids=words()[:, :3], **more).past_key_values
    with pytest.raises(UserError, match="saw 0 of them: .* under torch.no_grad"):
        model(input_ids=words()[:, 3:], past_key_values=cache, **more)


@pytest.mark.parametrize(
    "gnn, settings",
    [
        *((gnn, {}) for gnn in SCHEME_ARGS),
        *((gnn, more) for gnn in ("appnp", "pgnn") for more in ({"top_k": 2}, {"backend": "sparse"})),
    ],
    ids=str,
)
def test_cropping_the_cache_forgets(gnn, settings, make_decoder, words, image_states):
    model = make_decoder()
    put(model, gnn, join="replace", **settings)
    ids, mask, positions = left_padded(words)
    states = image_states()
    want = logits(model, ids, states, mask, left=True)
    _, cache = step(model, ids[:, :3], states, None, mask[:, :3], positions[:, :3])
    wrong = words(2, 9, seed=5)
    for size, crop in ((4, 4), (1, 1), (3, 2)):  # within one call, a call, part of a call
        wrong[:, 3:4] = ids[:, 3:4]
        for k in range(0, size, 2):
            part = slice(3 + k, 3 + min(size, k + 2))
            _, cache = step(model, wrong[:, part], states, cache, mask[:, : part.stop], positions[:, part])
        cache.crop(-crop)
    start = cache.get_seq_length()
    assert start == 4
    output, _ = step(model, ids[:, start:], states, cache, mask, positions[:, start:])
    close(output, want[:, start:])


@four_schemes
def test_reordering_and_changing_the_batch(gnn, make_decoder, words, image_states):
    model = make_decoder()
    put(model, gnn, join="replace")
    ids, mask, positions = left_padded(words)
    states = image_states()
    want = logits(model, ids, states, mask, left=True)
    for change, order in (
        (lambda cache, order: cache.reorder_cache(order), torch.tensor([1, 0])),
        (lambda cache, order: cache.reorder_cache(order), torch.tensor([1, 1])),
        (lambda cache, order: cache.batch_select_indices(order), torch.tensor([1])),
        (lambda cache, order: cache.batch_repeat_interleave(2), torch.tensor([0, 0, 1, 1])),
    ):
        _, cache = step(model, ids[:, :3], states, None, mask[:, :3], positions[:, :3])
        _, cache = step(model, ids[:, 3:5], states, cache, mask[:, :5], positions[:, 3:5])
        change(cache, order)
        cache.crop(-1)  # after the change of batch
        output, _ = step(model, ids[order, 4:], states[order], cache, mask[order], positions[order, 4:])
        close(output, want[order, 4:])


def test_a_copied_cache_goes_its_own_way(make_decoder, words, image_states):
    """A prompt's cache can be copied and used for several continuations; a reset one starts anew."""
    model = make_decoder()
    put(model, "pgnn", join="replace")
    states = image_states()
    ids, other = words(2, 6), words(2, 6, seed=4)
    other[:, :3] = ids[:, :3]
    _, cache = step(model, ids[:, :3], states, None)
    kept = copy.deepcopy(cache)
    for text in (ids, other):
        output, _ = step(model, text[:, 3:], states, copy.deepcopy(kept))
        close(output, logits(model, text, states)[:, 3:])
    cache.reset()
    output, _ = step(model, other, states, cache)
    close(output, logits(model, other, states))


def test_a_cache_filled_without_the_adapters_is_refused(make_decoder, words, image_states):
    model = make_decoder()
    adapted = put(model, "appnp")
    with adapted.disable_adapter():
        _, cache = step(model, words()[:, :3], image_states(), None)
    with pytest.raises(UserError, match="cache holds 3 earlier tokens, but the attention graph saw 0"):
        step(model, words()[:, 3:], image_states(), cache)


def test_a_ready_made_cache(make_decoder, words, image_states):
    model = make_decoder()
    put(model, "pgnn")
    ids, states = words(), image_states()
    for cache in (DynamicCache(), EncoderDecoderCache(DynamicCache(), DynamicCache())):
        output, _ = step(model, ids, states, cache)
        close(output, logits(model, ids, states))


@pytest.mark.parametrize("training", [False, True])
def test_a_static_cache_is_refused(training, make_decoder, words, image_states):
    model = make_decoder()
    put(model).train(training)
    cache = EncoderDecoderCache(StaticCache(config=model.config, max_cache_len=12), DynamicCache())
    with pytest.raises(UserError, match="use a DynamicCache"), torch.set_grad_enabled(training):
        model(input_ids=words(), encoder_hidden_states=image_states(), past_key_values=cache, use_cache=True)


@pytest.mark.parametrize(
    "gnn, args, beams", [*((*x, 3) for x in VARIANTS), ("pgnn", {"steps": 2}, 1)], ids=str
)
def test_generation_with_beams_equals_generation_without_cache(
    gnn, args, beams, make_decoder, words, image_states
):
    model = make_decoder(3)
    put(model, gnn, args, join="replace")
    ids, mask, positions = left_padded(words)
    more = dict(
        attention_mask=mask,
        position_ids=positions,
        encoder_hidden_states=image_states(),
        num_beams=beams,
        do_sample=False,
        max_new_tokens=6,
        return_dict_in_generate=True,
        output_scores=True,
        num_return_sequences=beams,
    )
    cached, plain = (model.generate(ids, use_cache=flag, **more) for flag in (True, False))
    assert torch.equal(cached.sequences, plain.sequences)
    for one, two in zip(cached.scores, plain.scores, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-3)
    if beams > 1:
        torch.testing.assert_close(cached.sequences_scores, plain.sequences_scores, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "family, gnn, settings",
    [
        *((*pair, {}) for pair in families_and_schemes(GENERATORS, ("llava", "t5"))),
        *((family, "pgnn", {"top_k": 2}) for family in ("blip", "llama", "bart", "mllama")),
    ],
    ids=str,
)
def test_every_family_generates_with_beams_as_without_cache(family, gnn, settings):
    task = {"gpt2": "CAUSAL_LM", "llama": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM", "bart": "SEQ_2_SEQ_LM"}.get(
        family
    )
    model = helpers.put(family, gnn, join="replace", task_type=task, **settings)
    batch = FAMILIES[family].batch(n=4)
    batch.pop("decoder_input_ids", None)
    if family in ("gpt2", "llama"):
        batch["attention_mask"][1, :2] = 0
    more = dict(
        num_beams=3,
        do_sample=False,
        max_new_tokens=5,
        return_dict_in_generate=True,
        output_scores=True,
        suppress_tokens=[IMAGE],
    )
    cached, plain = (model.generate(**batch, use_cache=flag, **more) for flag in (True, False))
    assert torch.equal(cached.sequences, plain.sequences)
    for one, two in zip(cached.scores, plain.scores, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", ["mistral", "gemma2"])
@pytest.mark.parametrize("gnn", helpers.SCHEME_ARGS)
def test_a_sliding_window_forgets_the_degrees_of_what_it_forgets(kind, gnn):
    window = {name: value for name, value in GQA.items() if name != "model_type"} | {"head_dim": 4}
    make = {
        "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**window, sliding_window=3)),
        "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**window, sliding_window=4)),
    }[kind]
    model = get_peft_model(far_from_zero(make(), 0), config(gnn, join="replace"))
    ids = FAMILIES["llama"].batch(n=12)["input_ids"]
    want = helpers.run(model, {"input_ids": ids})
    got, cache = [], hf.DynamicCache(config=model.config)
    for part in ids.split([2, 4, 1, 1, 3, 1], 1):
        with torch.no_grad():
            got.append(model(part, past_key_values=cache, use_cache=True).logits)
    close(torch.cat(got, 1), want)


def test_adapters_of_one_shape_share_the_cached_degrees():
    model = helpers.put("llama", "pgnn")
    model.add_adapter("other", config("appnp"))
    model.add_adapter("sparse", config("appnp", top_k=2))
    ids = FAMILIES["llama"].batch()["input_ids"]
    cache = model(ids[:, :3], use_cache=True).past_key_values
    model.set_adapter("other")
    cache = model(ids[:, 3:4], past_key_values=cache, use_cache=True).past_key_values
    model.set_adapter("sparse")
    with pytest.raises(UserError, match="cache holds 4 earlier tokens, but the attention graph saw 0"):
        model(ids[:, 4:], past_key_values=cache, use_cache=True)


def test_two_peft_models_round_one_model_hear_each_call_once():
    first = helpers.put("llama", "appnp")
    second = get_peft_model(first.get_base_model(), config(), adapter_name="second").eval()
    ids = FAMILIES["llama"].batch()["input_ids"]
    want = helpers.run(second, {"input_ids": ids})
    cache = second(ids[:, :3], use_cache=True).past_key_values
    close(second(ids[:, 3:], past_key_values=cache, use_cache=True).logits, want[:, 3:])


@pytest.mark.parametrize("candidates", [10, 32, 63, 64])
def test_prompt_lookup_decodes_as_without(candidates):
    """All of the candidates may be refused, and what is kept beside the cache must reach back before them."""
    model, prompt = helpers.put("llama", "pgnn", join="replace"), torch.randint(3, 40, (1, 80))
    model.generation_config.eos_token_id = None
    more = dict(max_new_tokens=70, do_sample=False)
    want = model.generate(input_ids=prompt, **more)
    look = dict(more, prompt_lookup_num_tokens=candidates, max_matching_ngram_size=1)
    if candidates < 64:
        assert torch.equal(model.generate(input_ids=prompt, **look), want)
    else:
        with pytest.raises(UserError, match=r"use at most 63 candidates \(num_assistant_tokens, prompt_"):
            model.generate(input_ids=prompt, **look)
