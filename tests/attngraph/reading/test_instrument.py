"""Holding models: sites, handles on wholes and parts, copies, and what each call says."""

import copy
import io
from functools import partial

import pytest
import torch
import transformers as hf

from attngraph import UserError, capture, record
from attngraph.reading.instrument import NAME, instrument
from tests.attngraph.reading.running import run
from tests.attngraph.reading.zoo import FAMILIES, GEMMA, far_from_zero, words


def logits(model, **more):
    with torch.no_grad():
        return model(words(), **more).logits


def test_handles_share_a_model_and_its_parts():
    """A part, the whole, another part: whatever is still held works, the rest is as before."""
    model = FAMILIES["bart"].model(implementation="sdpa")
    seen = []

    def listen(handle, site):
        handle.sites[site].listeners.append(lambda call: seen.append(call.site.module))

    def held():
        return [name for name, module in model.named_modules() if "attngraph" in vars(module)]

    decoder = instrument(model.model.decoder)
    listen(decoder, "layers.0.self_attn")
    encoder = instrument(model.model.encoder)
    whole = instrument(model)
    listen(whole, "model.encoder.layers.1.self_attn")
    assert (
        whole.sites["model.decoder.layers.0.self_attn"].listeners
        is decoder.sites["layers.0.self_attn"].listeners
    )
    encoder.remove()
    logits(model)
    layers = model.model.encoder.layers[1].self_attn, model.model.decoder.layers[0].self_attn
    assert [type(m) for m in seen] == [type(m) for m in layers] and all(a is b for a, b in zip(seen, layers))
    whole.remove()
    assert held() and all("decoder" in name for name in held())
    assert model.config._attn_implementation == NAME  # the decoder's configuration is the whole model's
    logits(model)
    assert len(seen) == 3
    decoder.remove()
    assert (
        not held()
        and type(model.config._attn_implementation) is str
        and model.config._attn_implementation == "sdpa"
    )


def test_two_models_of_one_configuration():
    """The second one's own run is not disturbed, and what is restored is what was there first."""
    one = FAMILIES["llama"].model(implementation="sdpa")
    two = type(one)(one.config).eval()
    want = logits(two)
    first = instrument(one)
    torch.testing.assert_close(logits(two), want, rtol=1e-4, atol=1e-5)  # eager meanwhile
    second = instrument(two)
    first.remove()
    assert len(capture(two, words())) == 2
    second.remove()
    assert type(one.config._attn_implementation) is str and one.config._attn_implementation == "sdpa"


def test_a_listener_may_replace_what_attention_computes():
    """What was read before is computed anew; there are no scores and no graph any more."""
    model, seen = FAMILIES["llama"].model(), []

    def twice(call):
        seen.extend([call.context, call.value, call.scores()])
        *bound, value, mask = call.eager.args
        eager = partial(call.eager.func, *bound, 2 * value, mask, **call.eager.keywords)
        call.replace_eager(eager, "is twice: take half")
        seen.extend([call.context, call.value, call.scores()])

    handle = instrument(model)
    name, site = next(iter(handle.sites.items()))
    site.listeners.append(twice)
    logits(model, use_cache=False)
    context, value, scores, new_context, new_value, no_scores = seen
    assert torch.equal(new_context, 2 * context) and torch.equal(new_value, 2 * value)
    assert scores is not None and no_scores is None
    with pytest.raises(UserError, match=f"^{name}: is twice: take half"):
        capture(model, words())
    handle.remove()


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_attentions_that_nothing_else_needs_are_returned_where_they_are_asked_for(name):
    """Of the modules or of the model, which collects them, while a listener sets the context."""
    model, inputs = FAMILIES[name].model(), FAMILIES[name].inputs()
    want = run(model, inputs, output_attentions=True)
    handle = instrument(model)
    for site in handle.sites.values():
        site.listeners.append(lambda call: setattr(call, "context", call.eager()[0].transpose(1, 2)))
    got = run(model, inputs, output_attentions=True)
    for key in (key for key in want if key.endswith("attentions")):
        assert all(torch.equal(x, y) for x, y in zip(got[key], want[key], strict=True)), key
    handle.remove()


@pytest.mark.parametrize("name", ["llama", "blip"])
def test_copies_stand_on_their_own(name):
    family = FAMILIES[name]
    model = family.model()
    handle, want = instrument(model), capture(model, family.inputs())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        graphs = capture(far_from_zero(twin, 1), family.inputs())
        assert set(graphs) == set(family.layers) and not any(graph.rotated for graph in graphs.values())
        assert not any(torch.equal(graphs[name].query, graph.query) for name, graph in want.items())
        site = next(module for module in twin.modules() if "attngraph" in vars(module))
        for twins in list(site.attngraph.changes.handles):
            twins.remove()
        assert not any("attngraph" in vars(module) or module._forward_hooks for module in twin.modules())
        assert type(twin.config._attn_implementation) is str
    assert set(capture(model, family.inputs())) == set(family.layers)  # the first one is still whole
    handle.remove()


def test_branches_for_eager_attention_are_taken():
    """Models that ask for eager attention by name (the indexer of DeepSeek-V3.2, say) find it."""
    assert NAME == "eager" and NAME == "attngraph" and NAME != "sdpa" and NAME in ("eager", "sdpa")
    assert (NAME != "eager") is False and {"eager": 1, "attngraph": 2}[NAME] == 2


def test_a_call_knows_cache_and_source_and_nothing_is_kept():
    """What a forward pass was given is there during its calls, and let go of afterwards."""
    model = FAMILIES["bart"].model()
    handle = instrument(model)
    given = {}
    for name, site in handle.sites.items():
        site.listeners.append(lambda call, name=name: given.update({name: (call.source, call.cache)}))
    with torch.no_grad():
        output = model(words(), use_cache=True)
    for name, site in handle.sites.items():
        source, cache = given[name]
        assert (source is output.encoder_last_hidden_state) == ("encoder_attn" in name)
        assert (cache is output.cache) == ("decoder" in name)
        assert site.module.attngraph.given.source is None and site.module.attngraph.given.cache is None
    handle.remove()


def test_a_bidirectional_mask_outweighs_the_modules_word():
    """A causal class run with a full mask, as text encoders made of decoders are, is not ordered in time."""
    model = FAMILIES["llama"].model()
    full = torch.zeros(2, 1, 7, 7)
    graphs = capture(model.model, {"input_ids": words(), "attention_mask": full, "use_cache": False})
    assert not any(graph.causal for graph in graphs.values())
    for graph in capture(model, {"input_ids": words(), "attention_mask": full}).values():
        assert graph.causal and (graph.span == torch.tensor([0, 6])).all()  # the first block of a text
    full[:, :, :3, 3:] = torch.finfo(torch.float32).min  # a prefix that sees itself, then words in order
    assert all(
        graph.causal for graph in capture(model, {"input_ids": words(), "attention_mask": full}).values()
    )


def test_a_cache_does_not_order_a_text_encoder():
    """EmbeddingGemma's layers see everything and say so; its configuration asks for a cache by default."""
    config = hf.Gemma3TextConfig(**GEMMA, use_bidirectional_attention=True)
    model = far_from_zero(hf.Gemma3TextModel(config), 0)
    for cached in (True, False):
        graphs = capture(model, {"input_ids": words(), "use_cache": cached})
        assert graphs and not any(graph.causal for graph in graphs.values())


def test_a_decoder_class_without_a_mask_is_not_ordered():
    """Also where SDPA would go by the class's word: the graphs are eager attention's."""
    for implementation in ("eager", "sdpa"):
        model = FAMILIES["llama"].model(implementation=implementation)
        layer = model.model.layers[0].self_attn
        states = torch.zeros(1, 5, 16)
        with record(model, layers="*.0.self_attn") as graphs, torch.no_grad():
            layer(
                states,
                position_embeddings=model.model.rotary_emb(states, torch.arange(5)[None]),
                attention_mask=None,
            )
        (graph,) = graphs["model.layers.0.self_attn"]
        assert layer.is_causal and not graph.causal and (graph.weight > 0).all()


def test_an_encoder_whose_windows_reach_further_one_way_is_in_no_order():
    """Nobody knows an order from such a mask, and there is none where the layers say that they are not
    causal and there is no cache."""
    model = FAMILIES["llama"].model()
    place = torch.arange(7)
    apart = place[:, None] - place
    mask = torch.zeros(2, 1, 7, 7).masked_fill((apart > 1) | (apart < -2), torch.finfo(torch.float32).min)
    given = {"input_ids": words(), "attention_mask": mask, "use_cache": False}
    with pytest.raises(UserError, match="model.layers.0.self_attn: in its mask a query sees a later one"):
        capture(model, given)
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    assert not any(graph.causal for graph in capture(model, given).values())
    with pytest.raises(UserError, match="in its mask a query sees a later one"):
        capture(model, given | {"use_cache": True})
