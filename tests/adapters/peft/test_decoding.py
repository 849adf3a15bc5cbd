"""Decoding with a key/value cache gives what a pass over the whole text gives. That beams do is in
``test_contract.py``."""

import copy

import pytest
import torch
import transformers as hf
from peft import get_peft_model
from transformers import DynamicCache, EncoderDecoderCache, StaticCache

from attngraph import UserError
from tests.adapters.peft import helpers
from tests.adapters.peft.blip_decoder import FEW, JOINS, left_padded, logits, put, step
from tests.adapters.peft.helpers import close, config
from tests.adapters.peft_models import FAMILIES
from tests.attngraph.reading.zoo import GQA, far_from_zero
from tests.pairwise import pairwise_params

IDS = FAMILIES["llama"].batch()["input_ids"]


@pytest.mark.parametrize(
    "variant, join, chunks", pairwise_params(variant=FEW, join=JOINS, chunks=[(1,) * 9, (3, 1, 1, 4)])
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


@pytest.mark.filterwarnings("ignore:.*in spite of the tiled backend")
def test_the_tiled_backend_and_a_ready_made_cache(make_decoder, words, image_states):
    """The backend goes back to weights, which leave their degrees for the next step."""
    model, ids, states = make_decoder(), words(), image_states()
    put(model, "pgnn", {"steps": 1}, join="replace", backend="tiled")
    for cache in (None, DynamicCache(), EncoderDecoderCache(DynamicCache(), DynamicCache())):
        _, cache = step(model, ids[:, :3], states, cache)
        output, _ = step(model, ids[:, 3:], states, cache)
        close(output, logits(model, ids, states)[:, 3:])


@pytest.mark.parametrize("gnn, settings", [("appnp", {"top_k": 2}), ("pgnn", {"backend": "sparse"})], ids=str)
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


def test_reordering_and_changing_the_batch(make_decoder, words, image_states):
    model = make_decoder()
    put(model, "pgnn", join="replace")
    ids, mask, positions = left_padded(words)
    states = image_states()
    want = logits(model, ids, states, mask, left=True)
    for change, order in (
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


def test_caches_that_are_refused(make_decoder, words, image_states):
    """One that was filled without the adapters; one of training, which starts from scores and leaves no
    degrees; a static one."""
    model = make_decoder()
    adapted = put(model)
    more = dict(encoder_hidden_states=image_states(), use_cache=True)
    with adapted.disable_adapter():
        _, cache = step(model, words()[:, :3], image_states(), None)
    with pytest.raises(UserError, match="cache holds 3 earlier tokens, but the attention graph saw 0"):
        step(model, words()[:, 3:], image_states(), cache)
    adapted.train()
    cache = model(input_ids=words()[:, :3], **more).past_key_values
    with pytest.raises(UserError, match="saw 0 of them: .* under torch.no_grad"):
        model(input_ids=words()[:, 3:], past_key_values=cache, **more)
    for training in (False, True):
        adapted.train(training)
        cache = EncoderDecoderCache(StaticCache(config=model.config, max_cache_len=12), DynamicCache())
        with pytest.raises(UserError, match="use a DynamicCache"), torch.set_grad_enabled(training):
            model(input_ids=words(), past_key_values=cache, **more)


@pytest.mark.parametrize("kind, gnn", [("mistral", "pgnn"), ("gemma2", "appnp")])
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
    cache = model(IDS[:, :3], use_cache=True).past_key_values
    model.set_adapter("other")
    cache = model(IDS[:, 3:4], past_key_values=cache, use_cache=True).past_key_values
    model.set_adapter("sparse")
    with pytest.raises(UserError, match="cache holds 4 earlier tokens, but the attention graph saw 0"):
        model(IDS[:, 4:], past_key_values=cache, use_cache=True)


def test_two_peft_models_round_one_model_hear_each_call_once():
    first = helpers.put("llama", "appnp")
    second = get_peft_model(first.get_base_model(), config(), adapter_name="second").eval()
    want = helpers.run(second, {"input_ids": IDS})
    cache = second(IDS[:, :3], use_cache=True).past_key_values
    close(second(IDS[:, 3:], past_key_values=cache, use_cache=True).logits, want[:, 3:])


def test_prompt_lookup_decodes_as_without():
    """All of the candidates may be refused, and what is kept beside the cache must reach back before them."""
    model, prompt = helpers.put("llama", "pgnn", join="replace"), torch.randint(3, 40, (1, 80))
    model.generation_config.eos_token_id = None
    more = dict(max_new_tokens=70, do_sample=False, max_matching_ngram_size=1)
    want = model.generate(input_ids=prompt, **more)
    assert torch.equal(model.generate(input_ids=prompt, prompt_lookup_num_tokens=63, **more), want)
    with pytest.raises(UserError, match=r"use at most 63 candidates \(num_assistant_tokens, prompt_"):
        model.generate(input_ids=prompt, prompt_lookup_num_tokens=64, **more)
