"""A step of decoding in one call of C: what it takes from the cache and leaves there is what a pass over the
whole text gives."""

from contextlib import contextmanager

import pytest
import torch
import transformers as hf
from peft import get_peft_model
from transformers import DynamicCache

from attngraph.adapters import GraphAdapterConfig
from attngraph.native import library
from tests.adapters.peft.blip_decoder import left_padded, logits, put, step
from tests.adapters.peft.helpers import close
from tests.attngraph.reading.zoo import far_from_zero, sized
from tests.attngraph.reading.zoo import words as text

pytestmark = pytest.mark.skipif(
    library.library() is None, reason="no C compiler when attngraph was installed"
)


@contextmanager
def calls_of_c(monkeypatch):
    """The names of the functions in C that are called."""
    names, call = [], library.Library.call
    with monkeypatch.context() as patch:
        patch.setattr(
            library.Library, "call", lambda self, name, *given: names.append(name) or call(self, name, *given)
        )
        yield names


def repeated_and_picked(cache):
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(torch.tensor([3, 1, 0]))


CHANGES = {  # what becomes of a cache, and of which examples it is then
    "nothing": (lambda cache: None, [0, 1]),
    "other beams": (lambda cache: cache.reorder_cache(torch.tensor([1, 1])), [1, 1]),
    "repeated, and other beams": (repeated_and_picked, [1, 0, 0]),
    "a part": (lambda cache: cache.batch_select_indices(torch.tensor([1])), [1]),
}


@pytest.mark.parametrize("degree", ["sum", "mean"])
@pytest.mark.parametrize("change", CHANGES)
def test_single_words(change, degree, make_decoder, words, image_states, monkeypatch):
    """Two words are cropped, then the batch changes, then a word is written, cropped and written again.
    Catches degrees, norms or numbers of queries of another example or of words that are gone, and padding in
    them."""
    model = make_decoder()
    put(model, "pgnn", {"p": 1.25, "mu": 0.1, "degree": degree})
    ids, mask, positions = left_padded(words)
    states, wrong = image_states(), words(2, 9, seed=5)
    want, cache = logits(model, ids, states, mask, left=True), None

    def write(ids, place, examples=slice(None)):
        seen = mask[examples, : place.stop], positions[examples, place]
        return step(model, ids[examples, place], states[examples], cache, *seen)

    with calls_of_c(monkeypatch) as called:
        _, cache = write(ids, slice(0, 3))
        assert "attngraph_decode" not in called
        called.clear()
        for place, given in ((3, ids), (4, wrong), (5, wrong)):
            _, cache = write(given, slice(place, place + 1))
        cache.crop(-2)
        do, examples = CHANGES[change]
        do(cache)
        first, _ = write(ids, slice(4, 5), examples)
        cache.crop(-1)
        got = [write(ids, slice(place, place + 1), examples)[0] for place in range(4, 9)]
    assert called == ["attngraph_decode"] * 4 * 9  # two layers with two kinds of attention
    close(torch.cat([first, *got], 1), want[examples][:, [4, *range(4, 9)]])


def test_norms_of_other_values_or_in_another_metric_are_not_taken(
    make_decoder, words, image_states, monkeypatch
):
    """One example of two gets another image in the cache; an output projection changes."""
    model = make_decoder()
    put(model, "pgnn", {"p": 1.25, "mu": 0.1})
    other, ids = 2 * image_states(), words(2, 5)
    results = {}
    for kernels in ("native", "eager"):
        monkeypatch.setenv(library.VARIABLE, kernels)
        _, cache = step(model, ids[:, :2], image_states(), None)
        _, cache = step(model, ids[:, 2:3], image_states(), cache)
        _, elsewhere = step(model, ids[:, :2], other, None)
        for one, another in zip(cache.cross_attention_cache.layers, elsewhere.cross_attention_cache.layers):
            one.keys[1], one.values[1] = another.keys[1], another.values[1]
        outputs = [step(model, ids[:, 3:4], image_states(), cache)[0]]
        weight = model.bert.encoder.layer[0].crossattention.output.dense.base_layer.weight
        with torch.no_grad():
            weight *= 2
            outputs.append(step(model, ids[:, 4:5], image_states(), cache)[0])
            weight /= 2
        results[kernels] = torch.cat(outputs, 1)
    close(results["native"], results["eager"])


@pytest.mark.parametrize(
    "kind, more",
    [
        ("Mistral", dict(num_key_value_heads=2, sliding_window=4)),
        ("GPT2", {}),
        ("Gemma2", dict(num_key_value_heads=1, head_dim=8)),
    ],
)
def test_windows_groups_and_rotation(kind, more, monkeypatch):
    """A window drops the first values; heads share keys and values; the nodes' features are the queries
    before rotation. Gemma 2 caps its scores, so its weights are no softmax of them: there is no such step."""
    model = getattr(hf, f"{kind}ForCausalLM" if kind != "GPT2" else "GPT2LMHeadModel")
    config = sized(kind, attn_implementation="eager", **more)
    torch.manual_seed(0)
    model = far_from_zero(model(config), 0)
    settings = GraphAdapterConfig(gnn="pgnn", p=1.25, mu=0.1, reduction=4, init_weights=False)
    model, ids = get_peft_model(model, settings).eval(), text(10)
    with torch.no_grad(), calls_of_c(monkeypatch) as called:
        want = model(input_ids=ids, use_cache=False).logits
        cache, got = DynamicCache(config=config), []
        for start, end in ((0, 5), *((k, k + 1) for k in range(5, 10))):
            got.append(model(input_ids=ids[:, start:end], cache=cache, use_cache=True).logits)
    assert called.count("attngraph_decode") == (0 if kind == "Gemma2" else 5 * config.num_hidden_layers)
    close(torch.cat(got, 1), want)


def test_in_half_precision_weights_are_not_exact_enough(make_decoder, words, image_states, monkeypatch):
    model = make_decoder().bfloat16()
    put(model, "pgnn", {"p": 1.25, "mu": 0.1})
    cache, states = None, image_states().bfloat16()
    with calls_of_c(monkeypatch) as called:
        for k in range(3):
            output, cache = step(model, words()[:, k : k + 1], states, cache)
            assert output.isfinite().all()
    assert "attngraph_decode" not in called
