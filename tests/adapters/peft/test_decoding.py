"""Decoding with a key/value cache gives what a pass over the whole text gives. That beams do is in
``test_contract.py``."""

import copy

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, StaticCache

from attngraph import UserError
from tests.adapters.peft.blip_decoder import JOINS, VARIANTS, left_padded, logits, put, step
from tests.adapters.peft.helpers import close
from tests.pairwise import pairwise_params


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


CHANGES = {  # what becomes of a cache, and of which examples it is then
    "cropped": (lambda cache: None, [0, 1]),
    "reordered": (lambda cache: cache.reorder_cache(torch.tensor([1, 1])), [1, 1]),
    "a part": (lambda cache: cache.batch_select_indices(torch.tensor([1])), [1]),
    "repeated": (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1]),
    "copied": (copy.deepcopy, [0, 1]),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("gnn, settings", [("appnp", {"top_k": 2}), ("pgnn", {"backend": "sparse"})], ids=str)
def test_what_is_done_to_a_cache_is_done_to_its_degrees(
    change, gnn, settings, make_decoder, words, image_states
):
    """Words that are cropped again (in one call, a call, a part of a call) leave no trace."""
    model = make_decoder()
    put(model, gnn, join="replace", **settings)
    ids, mask, positions = left_padded(words)
    states = image_states()
    want = logits(model, ids, states, mask, left=True)
    _, cache = step(model, ids[:, :3], states, None, mask[:, :3], positions[:, :3])
    wrong = words(2, 9, seed=5)
    wrong[:, 3:4] = ids[:, 3:4]
    for size, crop in ((4, 4), (1, 1), (3, 2)):
        for k in range(0, size, 2):
            part = slice(3 + k, 3 + min(size, k + 2))
            _, cache = step(model, wrong[:, part], states, cache, mask[:, : part.stop], positions[:, part])
        cache.crop(-crop)
    do, order = CHANGES[change]
    copied = do(cache)
    for one in [cache] if copied is None else [copied, cache]:
        assert one.get_seq_length() == 4
        output, _ = step(model, ids[order, 4:], states[order], one, mask[order], positions[order, 4:])
        close(output, want[order, 4:])
    cache.reset()
    output, _ = step(model, ids[order], states[order], cache, mask[order], positions[order])
    rows = mask[order].bool()
    close(output[rows], want[order][rows])


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
