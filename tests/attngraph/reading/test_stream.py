"""Graphs that are streamed from a model that runs SDPA, against the graphs that hold all weights."""

import copy

import pytest
import torch
import transformers as hf
from torch.utils._pytree import tree_leaves

from attngraph import UserError, capture, record
from attngraph import streaming as streaming_module
from attngraph.reading.instrument import FUSED_NAME, NAME, instrument
from tests.attngraph.reading.running import prompt, read, rows, run
from tests.attngraph.reading.zoo import FAMILIES, sized, words

TOP = 3
STREAMED = (
    "bert", "llama", "vit", "blip2", "llava", "paligemma", "mllama", "whisper", "qwen2-vl", "gemma3", "bart"
)  # fmt: skip
OWN = ("blip", "falcon", "xlnet", "mpnet")  # they make their weights themselves


def on_sdpa(family):
    model = family.model()
    if model._can_set_attn_implementation():
        model.set_attn_implementation("sdpa")
    return model


def outputs(output) -> list[torch.Tensor]:
    return [x for x in tree_leaves(dict(output)) if isinstance(x, torch.Tensor)]


@pytest.mark.parametrize("name", [*STREAMED, *OWN])
def test_a_stream_is_what_the_dense_graphs_say(name):
    """The heaviest edges, their weights, degrees of all edges, entropies, order in time, features, metric;
    and what the model puts out has the bits that it has without us."""
    family = FAMILIES[name]
    model, inputs, left = on_sdpa(family), family.inputs(), []
    plain = outputs(run(model, inputs))
    whole = read(model, inputs)
    with model.register_forward_hook(lambda m, a, out: left.append(outputs(out))):
        streamed = read(model, inputs, stream=True, top_k=TOP)
    assert len(plain) == len(left[0]) and all(map(torch.equal, plain, left[0]))
    assert list(streamed) == list(whole)
    for layer, graph in whole.items():
        got, weight = streamed[layer], graph.weight
        assert "compact" in repr(got)
        for field in ("kind", "causal", "rotated"):
            assert getattr(got, field) == getattr(graph, field)
        torch.testing.assert_close(got.weight, graph.sparsify(top_k=TOP).weight, rtol=0, atol=5e-6)
        torch.testing.assert_close(got.totals.value_degree, weight.sum(-2), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got.totals.query_degree, weight.sum(-1))
        entropy = -torch.special.xlogy(weight, weight).sum(-1)
        torch.testing.assert_close(got.totals.entropy, entropy, rtol=0, atol=5e-5)
        torch.testing.assert_close(got.query, graph.query, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got.value, graph.value, rtol=1e-4, atol=1e-5)
        assert torch.equal(rows(got), rows(graph))
        for one, other in ((got.span, graph.span), (got.metric, graph.metric)):
            assert (one is None) == (other is None) and (one is None or torch.equal(one, other))


@pytest.mark.parametrize("name", ["llama", "paligemma", "mllama", "blip"])
def test_decoding_with_a_cache(name):
    """Each step has its queries' edges, and in past_degree what all edges of earlier queries left."""
    family, calls = FAMILIES[name], {}
    model = on_sdpa(family)
    model.generation_config.update(eos_token_id=None, forced_eos_token_id=None)
    more = dict(max_new_tokens=4, min_new_tokens=4, num_beams=2, do_sample=False)
    for stream in (True, False):
        with record(model, layers=family.generates, stream=stream) as calls[stream], torch.no_grad():
            model.generate(**prompt(family), **more)
    for layer, steps in calls[False].items():
        assert len(steps) == len(calls[True][layer]) == 4
        for got, step in zip(calls[True][layer], steps):
            torch.testing.assert_close(got.weight, step.weight, rtol=0, atol=1e-5)
            assert (got.past_degree is None) == (step.past_degree is None)
            if step.past_degree is not None:
                torch.testing.assert_close(got.past_degree, step.past_degree, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("crop", [1, 40])
def test_a_cropped_cache(crop, top_k):
    """A long prompt, of which the degrees of the last queries are kept one by one: those of the edges that
    the graphs have."""
    model, ids, pasts = on_sdpa(FAMILIES["llama"]), words(100), []
    for stream in (True, False):
        with record(model, stream=stream, top_k=top_k) as graphs, torch.no_grad():
            cache = model(ids, use_cache=True).cache
            cache.crop(-crop)
            model(ids[:, :5], cache=cache)
        pasts.append([graph[-1].past_degree.total for graph in graphs.values()])
    torch.testing.assert_close(*pasts, rtol=2e-5, atol=2e-5)


def test_heads_and_layers():
    model, ids = on_sdpa(FAMILIES["llama"]), {"input_ids": words(9)}
    whole = read(model, ids)
    (name,) = layers = ["model.layers.1.self_attn"]
    graphs = read(model, ids, layers=layers, heads=[3, 1], stream=True, top_k=2)
    assert list(graphs) == layers
    wanted = whole[name][:, [3, 1]]
    torch.testing.assert_close(graphs[name].weight, wanted.sparsify(top_k=2).weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(graphs[name].metric, wanted.metric)
    with pytest.raises(UserError, match="has heads 0..3, not 4"):
        read(model, ids, heads=4, stream=True)


def test_layers_that_cannot_be_streamed_are_logged_once(caplog):
    """Memory of all edges in a layer that makes its weights itself, without a word; or a word per step."""
    for name in ("llama", "blip"):
        model, inputs = on_sdpa(FAMILIES[name]), FAMILIES[name].inputs()
        with caplog.at_level("INFO", "attngraph"), record(model, stream=True) as graphs:
            run(model, inputs), run(model, inputs)
        layers = [line.args[0] for line in caplog.records if line.name == "attngraph.reading.reader"]
        assert layers == [layer for layer in graphs if "vision_model" in layer]  # BLIP's


def test_half_precision():
    """Weights are computed in float32 from the queries and keys of the model."""
    model, ids = on_sdpa(FAMILIES["llama"]).bfloat16(), {"input_ids": words(20)}
    seen = []
    handle = instrument(model, fused=True)
    for site in handle.sites.values():
        site.listeners.append(lambda call: seen.append(call))
    graphs = read(model, ids, stream=True, top_k=4)
    handle.remove()
    for call, graph in zip(seen, graphs.values(), strict=True):
        scores = call.query.double() @ call.key.double().mT * call.scale
        weight = scores.masked_fill(~torch.ones(20, 20).bool().tril(), -torch.inf).softmax(-1)
        torch.testing.assert_close(graph.totals.value_degree.double(), weight.sum(-2), rtol=1e-5, atol=1e-5)
        assert graph.weight.dtype == torch.float32 and graph.query.dtype == torch.bfloat16


def test_without_the_library(monkeypatch):
    model, inputs = on_sdpa(FAMILIES["bert"]), FAMILIES["bert"].inputs()
    streamed = read(model, inputs, stream=True, top_k=TOP)
    monkeypatch.setattr(streaming_module, "library", lambda: None)
    for got, wanted in zip(read(model, inputs, stream=True, top_k=TOP).values(), streamed.values()):
        torch.testing.assert_close(got.weight, wanted.weight, rtol=0, atol=1e-6)
        torch.testing.assert_close(got.totals, wanted.totals, rtol=2e-6, atol=2e-5)


def test_who_else_reads_the_model_decides_which_attention_it_runs():
    """SDPA only as long as nobody needs weights; and it is as before in the end."""
    model, ids = on_sdpa(FAMILIES["llama"]), {"input_ids": words(9)}
    plain, config = run(model, ids).logits, model.config
    with record(model, stream=True) as streamed:
        assert str.__eq__(config._attn_implementation_internal, FUSED_NAME)
        run(model, ids)
        with record(model) as dense:
            assert str.__eq__(config._attn_implementation_internal, NAME)
            run(model, ids)
        assert str.__eq__(config._attn_implementation_internal, FUSED_NAME)
        assert torch.equal(run(model, ids).logits, plain)
    assert config._attn_implementation_internal == "sdpa"
    assert copy.deepcopy(FUSED_NAME) == "sdpa" and copy.deepcopy(NAME) == "eager" and NAME != FUSED_NAME
    for name, (graph,) in dense.items():
        for got in streamed[name]:
            torch.testing.assert_close(got.weight, graph.weight, rtol=0, atol=1e-6)


def test_mean_degrees_of_a_stream_count_what_each_query_sees():
    """Also once only edges are left (here all). Without a mask from the user the graph has no value mask."""
    model, ids = on_sdpa(FAMILIES["llama"]), {"input_ids": words(9)}
    streamed = read(model, ids, stream=True)
    for layer, graph in read(model, ids).items():
        assert graph.causal and streamed[layer].value_mask is None
        want = graph.value_degree("mean")
        for got in (streamed[layer], streamed[layer].sparsify(top_k=9)):
            torch.testing.assert_close(got.value_degree("mean"), want, rtol=1e-5, atol=1e-5)


class OwnAttention(torch.nn.Module):
    """Attention outside of transformers' interface that calls PyTorch's."""

    num_heads = 2

    def __init__(self):
        super().__init__()
        self.qkv, self.output = torch.nn.Linear(8, 24), torch.nn.Linear(8, 8)

    def forward(self, x, is_causal):
        query, key, value = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=is_causal)
        return self.output(out.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("is_causal", [True, False])
def test_fused_attention_outside_of_the_interface(is_causal):
    torch.manual_seed(0)
    module, x = torch.nn.Sequential(), torch.randn(2, 7, 8)
    module.attention = OwnAttention()
    module.forward = lambda x: module.attention(x, is_causal)
    plain, left = module(x), []
    whole = capture(module, x)["attention"]
    with module.register_forward_hook(lambda m, a, out: left.append(out)):
        graph = capture(module, x, stream=True, top_k=2)["attention"]
    assert torch.equal(plain, left[0])
    torch.testing.assert_close(graph.weight, whole.sparsify(top_k=2).weight, rtol=0, atol=1e-6)
    assert graph.causal == whole.causal


def test_refusals():
    model, ids = on_sdpa(FAMILIES["llama"]), {"input_ids": words(4)}
    for options in (dict(threshold=0.1), dict(mass=0.5), dict(detach=False)):
        with pytest.raises(UserError, match="a stream of edges has no gradients, and keeps the heaviest"):
            capture(model, ids, stream=True, **options)
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(UserError, match="is set to flash_attention_2, whose graphs can't be streamed"):
        capture(model, ids, stream=True)
    model.config._attn_implementation_internal = "sdpa"
    t5 = on_sdpa(FAMILIES["t5"])
    with pytest.raises(UserError, match=r"adds numbers to its scores .* set the model to eager attention"):
        read(t5, FAMILIES["t5"].inputs(), stream=True)
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight[0] = float("nan")
    with pytest.raises(UserError, match="layers.1.self_attn: the attention weights hold NaN or Inf"):
        capture(model, ids, stream=True)


def test_a_long_text_makes_no_array_of_all_edges():
    """8,192 words; one head's M would be 256 MB."""
    from torch.profiler import ProfilerActivity, profile

    sizes = sized("Llama", num_hidden_layers=1, max_position_embeddings=8192)
    model, n = hf.LlamaModel(sizes).eval(), 8192
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen, torch.no_grad():
        (graph,) = capture(model, {"input_ids": words(n)}, stream=True, top_k=2, heads=0).values()
    assert graph.totals.query_degree.shape == (2, 1, n) and "compact" in repr(graph)
    assert max(event.self_cpu_memory_usage for event in seen.key_averages()) < 0.5 * n * n
