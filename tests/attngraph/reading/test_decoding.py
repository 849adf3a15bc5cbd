"""Graphs of decoding with a key/value cache: the steps, put together, are the graph of the whole text."""

from dataclasses import replace

import pytest
import torch
import transformers as hf

from attngraph import UserError, record
from attngraph.adapters import PGNN
from attngraph.backends import edges_of
from attngraph.norms import KeptNorms
from attngraph.reading.degree_cache import DegreeCache
from tests.adapters.contract import random_graph
from tests.attngraph.reading.running import prompt, read, rows
from tests.attngraph.reading.zoo import (
    FAMILIES,
    IMAGE,
    families,
    far_from_zero,
    sized,
    words,
)

WRITERS = families(
    "gpt2", "git", "falcon, groups", "gemma4, shared keys", only=lambda family: family.generates
)


def generate(model, inputs, **more):
    """Four words, none of them the image token."""
    model.generation_config.update(eos_token_id=None, forced_eos_token_id=None)
    more = dict(do_sample=False, max_new_tokens=4, min_new_tokens=4, suppress_tokens=[IMAGE]) | more
    with torch.no_grad():
        model.generate(**inputs, **more)


@pytest.mark.parametrize(
    "family, beams",
    [pytest.param(*case.values, 1 + k % 2, id=case.id, marks=case.marks) for k, case in enumerate(WRITERS)],
)
def test_cached_generation_gives_the_rows_of_the_whole_text(family, beams):
    """The steps with a cache, put together, are the last call without one: weights, queries, degrees,
    modality."""
    model, calls = family.model(seed=2), {}
    for cached in (True, False):
        torch.manual_seed(0)
        with record(model, layers=family.generates) as calls[cached]:
            generate(model, prompt(family), use_cache=cached, num_beams=beams)
    assert calls[True] and set(calls[True]) == set(calls[False])
    for name, steps in calls[True].items():
        assert len(steps) == len(calls[False][name]) == 4
        for step, whole in zip(steps, calls[False][name]):
            n, m = step.shape[2:4]
            assert whole.shape[3] == m and step.kind == whole.kind and step.causal and whole.causal
            valid = rows(step)
            for get in (
                lambda g: g.weight,
                lambda g: g.query,
                lambda g: g.value_degree("sum"),
                lambda g: g.value_degree("mean"),
            ):
                torch.testing.assert_close(
                    get(step)[valid], get(whole)[:, :, -n:][valid], rtol=1e-3, atol=1e-4
                )
            for got, want in zip(step.is_image(), whole.is_image()):
                if got is not None and want is not None:
                    assert torch.equal(got, want[:, -got.shape[1] :])
        assert [g.shape[2] for g in steps[1:]] == [1, 1, 1]
        assert steps[-1].past_degree is not None
        if family.layers[name] == "self causal mixed mixed":
            assert isinstance(steps[-1].value_modality, torch.Tensor) and steps[-1].query_modality == "text"


@pytest.mark.parametrize("family, backend", [("blip", "dense"), ("trocr", "dense"), ("bart", "sparse")])
def test_norms_of_each_value_are_computed_once(family, backend):
    """And follow the beams."""
    family, known = FAMILIES[family], {}
    model = family.model(seed=2)

    def ask(name, graph):
        known.setdefault(name, []).append(graph.kept_norms.square is not None)
        for one, other in ((graph, replace(graph, kept_norms=None)), (graph, graph)):
            got, want = edges_of(one, backend), edges_of(other, backend)
            torch.testing.assert_close(got.square_norm(got.value), want.square_norm(want.value))
        twice = 2 * got.value  # not the values whose norms are kept
        torch.testing.assert_close(got.square_norm(twice), 4 * got.square_norm(got.value))
        assert graph.kept_norms.square.shape == graph.value.shape[:3]

    with record(model, layers=family.generates, on_graph=ask):
        generate(model, prompt(family), num_beams=3)
    assert known and all(steps == [False, True, True, True] for steps in known.values())


def test_norms_of_other_values_are_computed_again():
    cache, value = DegreeCache(), torch.randn(2, 3, 5, 4)
    kept = cache.norms_of(value)
    assert kept.square is None and kept.get(lambda x: x.square().sum(-1)) is kept.square
    assert torch.equal(cache.norms_of(value.clone()).square, kept.square)
    cache.change_batch(torch.tensor([1, 0]))
    assert torch.equal(cache.norms_of(value.flip(0)).square, kept.square.flip(0))
    assert cache.norms_of(value).square is None
    value[..., 0] += 1  # in place, as a cache of fixed length is filled
    assert cache.norms_of(value).square is None and cache.norms_of(value[:, :, :4]).square is None


def test_norms_in_another_metric_are_computed_again():
    """The output projection may change between two steps."""
    cache, value, metric = DegreeCache(), torch.randn(2, 3, 5, 4), torch.randn(3, 4, 4)
    kept = cache.norms_of(value, metric=metric).get(lambda x: x.square().sum(-1))
    assert cache.norms_of(value, metric=metric).square is kept or torch.equal(
        cache.norms_of(value, metric=metric.clone()).square, kept
    )
    assert cache.norms_of(value, metric=2 * metric).square is None
    assert cache.norms_of(value).square is None


def test_norms_of_new_values_are_added():
    """Also after a crop, when others come whose first feature is the same, as happens in half precision; and
    after other changes of the cache. Nothing that was known is computed again."""
    cache, value, computed = DegreeCache(), torch.randn(2, 3, 9, 4), []

    def check(value, start=0):
        norms = cache.norms_of(value, start).get(lambda x: computed.append(x.shape[2]) or x.square().sum(-1))
        torch.testing.assert_close(norms, value.square().sum(-1))

    for end in (5, 7):
        check(value[:, :, :end])
    cache.crop(3)
    value[:, :, 4:, 1:] += 1
    check(value)
    cache.change_batch(torch.tensor([1, 0]))
    check(value[[1, 0]])
    cache.change_batch(torch.tensor([0]))
    check(value[[1]])
    check(value[[1], :, 2:], start=2)  # two values have left a sliding window
    assert computed == [5, 2, 5]
    check(value[[0], :, 2:], start=2)
    assert computed == [5, 2, 5, 7]


def test_kept_norms_serve_every_backend(monkeypatch):
    """Also several chunks of queries: norms that are known are taken, wrong ones too, and others kept."""
    monkeypatch.setattr("attngraph.backends.chunks.MOST", 2)
    graph, _ = random_graph(3, n=5, causal=True)
    for backend in ("dense", "sparse", "tiled"):
        wrong = torch.full(graph.value.shape[:3], 7.0, dtype=torch.float64)
        for norms in ([], [wrong]):
            kept, scheme = KeptNorms(graph.value, norms), PGNN().double()
            with torch.no_grad():
                got = scheme(graph.following(None, kept), backend)
                assert torch.allclose(got, scheme(graph, backend)) == (kept.square is not wrong)
            torch.testing.assert_close(kept.get(lambda x: 0 * x[..., 0]), kept.square)
            assert kept.square.abs().max() > 0


def test_norms_follow_crops_reordering_and_selection_of_a_cache():
    model, ids, seen = FAMILIES["llama"].model(), words(9), []

    def ask(name, graph):
        got, want = edges_of(graph), edges_of(replace(graph, kept_norms=None))
        known = graph.kept_norms.square
        seen.append(0 if known is None else known.shape[-1])
        torch.testing.assert_close(got.square_norm(got.value), want.square_norm(want.value))

    with record(model, on_graph=ask), torch.no_grad():
        cache = model(ids[:, :6], use_cache=True).cache
        layers = len(seen)
        cache.crop(-2)
        model(ids[:, 5:8].flip(0), cache=cache, use_cache=True)
        cache.reorder_cache(torch.tensor([1, 0]))
        model(ids[:, 8:], cache=cache, use_cache=True)
        cache.batch_select_indices(torch.tensor([1]))
        model(ids[:1, :2], cache=cache, use_cache=True)
    assert seen[::layers] == [0, 4, 7, 8]


def test_image_tokens_are_where_the_prompt_has_them():
    family = FAMILIES["llava"]
    inputs = family.inputs()
    graph = read(family.model(), inputs)["model.language_model.layers.0.self_attn"]
    assert torch.equal(graph.query_modality, inputs["input_ids"] == IMAGE)
    without = {"input_ids": words(), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    graph = read(family.model(), without)["model.language_model.layers.0.self_attn"]
    assert graph.query_modality == graph.value_modality == "text"
    model = family.model()
    embeds = model.get_input_embeddings()(words())
    graph = read(model, {"inputs_embeds": embeds})["model.language_model.layers.0.self_attn"]
    assert graph.query_modality is None  # nobody says which of them are images


@pytest.mark.parametrize(
    "name, layer",
    [
        ("blip2", "language_model.model.decoder.layers.0.self_attn"),
        ("florence2", "*decoder.layers.0.encoder_attn"),
    ],
)
def test_image_tokens_follow_the_beams(name, layer):
    """BLIP-2 copies what it embedded of the prompt for its beams, Florence-2 what its encoder put out."""
    model, inputs = FAMILIES[name].model(), FAMILIES[name].inputs()
    inputs = {key: inputs[key] for key in ("input_ids", "attention_mask", "pixel_values")}
    inputs["input_ids"][1] = inputs["input_ids"][1].flip(0)
    inputs["attention_mask"][:] = 1
    with record(model, layers=layer) as graphs:
        generate(model, inputs, num_beams=2)
    ((first, second, *_),) = graphs.values()
    images = inputs["input_ids"] == IMAGE
    assert not torch.equal(images[0], images[1])
    for graph in (first, second):
        assert torch.equal(graph.value_modality[:, : images.shape[1]], images.repeat_interleave(2, 0))


def test_a_sliding_window_drops_the_degrees_of_the_values_that_leave_it():
    config = sized("Mistral", num_key_value_heads=2, sliding_window=4, attn_implementation="eager")
    torch.manual_seed(0)
    model = hf.MistralForCausalLM(config).eval()
    ids = words(10)
    whole = read(model, {"input_ids": ids})
    with record(model) as steps, torch.no_grad():
        cache = hf.DynamicCache(config=config)
        for start, end in ((0, 6), (6, 8), (8, 9), (9, 10)):
            model(ids[:, start:end], cache=cache, use_cache=True)
    for name, calls in steps.items():
        assert [g.shape[3] for g in calls] == [6, 5, 4, 4]
        end = 0
        for step in calls:
            n, m = step.shape[2:4]
            end += n
            want = whole[name].value_degree()[:, :, end - n : end, end - m : end]
            torch.testing.assert_close(step.value_degree(), want)


def test_long_prompts_do_not_keep_all_their_degrees():
    """Of a long call the last rows are kept, and fewer from the next one on: the cache can be cropped by as
    many, and not by more."""
    model = FAMILIES["llama"].model()
    ids = words(150)
    whole = read(model, {"input_ids": ids})
    steps = []
    with record(model, on_graph=lambda name, graph: steps.append(graph)), torch.no_grad():
        cache = model(ids[:, :140], use_cache=True).cache
        (degrees,) = cache.layers[0].degrees.values()

        def kept() -> list[int]:
            totals = [call.totals for call in degrees.calls]
            assert all(x.untyped_storage().nbytes() == x.nbytes for x in totals)
            return [x.shape[2] for x in totals]

        assert kept() == [64]
        model(ids[:, 140:141], cache=cache, use_cache=True)
        assert kept() == [32, 1]
        cache.crop(-32)
        steps.clear()
        model(ids[:, 109:], cache=cache, use_cache=True)
        assert kept() == [1, 41]
        cache.crop(-40)
        assert kept() == [1, 1]
        for removed in (64, 100):
            with pytest.raises(UserError, match=f"cropped by {removed} tokens, to one whose degrees"):
                model(ids[:, :140], use_cache=True).cache.crop(-removed)
    for step, graph in zip(steps[:2], whole.values(), strict=True):
        assert step.shape[2] == 41
        torch.testing.assert_close(
            step.value_degree(), graph.value_degree()[:, :, 109:], rtol=1e-4, atol=1e-4
        )


def test_a_cache_can_be_cropped_to_the_end_of_an_earlier_call():
    model, ids, cache = FAMILIES["llama"].model(), words(130), None
    whole = read(model, {"input_ids": ids})
    with record(model) as steps, torch.no_grad():
        for part in ids[:, :120].split(40, 1):
            cache = model(part, cache=cache, use_cache=True).cache
        cache.crop(-80)
        model(ids[:, 40:], cache=cache, use_cache=True)  # the first 27 of 90 are a sum
        cache.crop(-60)
        model(ids[:, 70:], cache=cache, use_cache=True)
    for name, graph in whole.items():
        for start, step in zip((40, 70), steps[name][-2:]):
            want = graph.value_degree()[:, :, start:]
            torch.testing.assert_close(step.value_degree(), want, rtol=1e-4, atol=1e-4)


def test_of_reordered_beams_only_the_last_degrees_are_kept():
    """The steps after it count on, and can be cropped again; an earlier end is refused, not made up."""
    model, ids = FAMILIES["llama"].model(), words(9)
    order = torch.tensor([1, 1])
    whole = read(model, {"input_ids": ids[order]})
    with record(model) as steps, torch.no_grad():
        cache = model(ids[:, :6], use_cache=True).cache
        cache.reorder_cache(order)
        (degrees,) = cache.layers[0].degrees.values()
        assert [call.totals.shape[2] for call in degrees.calls] == [1]
        model(ids[order, 6:8].flip(1), cache=cache, use_cache=True)
        cache.crop(-2)
        model(ids[order, 6:], cache=cache, use_cache=True)
        with pytest.raises(UserError, match="cropped by 4 tokens, .* none from before beams were reordered"):
            cache.crop(-4)
    for name, graph in whole.items():
        want = graph.value_degree()[:, :, 6:]
        torch.testing.assert_close(steps[name][-1].value_degree(), want, rtol=1e-4, atol=1e-4)


def test_layers_with_several_places_in_a_cache_keep_degrees():
    sizes = dict(vocab_size=41, hidden_size=16, num_attention_heads=2, intermediate_size=24, head_dim=8)
    config = hf.HrmTextConfig(**sizes, num_layers_per_stack=1, H_cycles=2, L_cycles=2)
    model, ids = far_from_zero(hf.HrmTextForCausalLM(config), 0), words(7)
    whole = record_steps(model, ids, [7])
    for sizes in ([1] * 7, [4, 1, 2]):
        assert whole
        for name, (calls, *_) in whole.items():
            steps = record_steps(model, ids, sizes)[name]
            for k, call in enumerate(calls):
                end = 0
                for step in (part[k] for part in steps):
                    end += step.shape[2]
                    want = call.value_degree()[:, :, end - step.shape[2] : end, : step.shape[3]]
                    torch.testing.assert_close(step.value_degree(), want, rtol=1e-4, atol=1e-4)


def test_a_cache_in_which_a_layer_has_no_place_serves_one_call(monkeypatch):
    """Its degrees cannot be kept for a second one."""
    monkeypatch.setattr("attngraph.reading.attend.place_of", lambda cache, layer, key: None)
    model = FAMILIES["llama"].model()
    assert [len(step) for step in record_steps(model, words(7), [7]).values()] == [1, 1]
    with pytest.raises(UserError, match="layers.0.self_attn: an attention layer does not say where in the"):
        record_steps(model, words(7), [4, 3])


def record_steps(model, ids, sizes) -> dict[str, list[list]]:
    """The calls of every layer in each step of a decoding with a cache, which is the model's own."""
    steps: dict[str, list[list]] = {}
    with record(model) as graphs, torch.no_grad():
        cache = None
        for part in ids.split(sizes, 1):
            cache = model(part, cache=cache, use_cache=True).cache
            for name, calls in graphs.items():
                steps.setdefault(name, []).append(calls[:])
                calls.clear()
    return steps
