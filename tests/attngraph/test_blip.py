"""Graphs read from BLIP's decoder are what the model computed."""

import pytest
import torch
from transformers import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextModel

from adapters.blip import attach
from adapters.config import AdapterConfig
from attngraph.blip import head_metric, read_attention, sites, text_model
from attngraph.errors import UserError

LAYERS = ["layer.0.attention", "layer.0.crossattention", "layer.1.attention", "layer.1.crossattention"]


@pytest.fixture(params=["plain", "adapted"])
def model(request, make_decoder):
    model = make_decoder()
    if request.param == "adapted":
        adapters = attach(model, AdapterConfig("pgnn", join="replace"))
        for parameter in adapters.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def run(model, ids, states, **more):
    with torch.no_grad():
        return model(ids, encoder_hidden_states=states, **more)


def by_name(output) -> dict[str, torch.Tensor]:
    """The model's own attention weights under our names."""
    pairs = zip(output.attentions, output.cross_attentions, strict=True)
    return {f"layer.{k}.{name}": w for k, pair in enumerate(pairs) for name, w in zip(("attention", "crossattention"), pair)}


def test_sites(model):
    assert [site.name for site in sites(model)] == LAYERS
    assert [site.kind for site in sites(model)] == ["self", "cross"] * 2


@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_weights_are_the_models_own(model, padding, words, image_states):
    mask = torch.ones(2, 7, dtype=torch.long)
    if padding != "none":
        mask[1, 5:] = 0
    if padding == "left":
        mask = mask.flip(1)
    with read_attention(model) as graphs:
        output = run(model, words(), image_states(), attention_mask=mask, output_attentions=True)
    assert list(graphs) == LAYERS and all(len(calls) == 1 for calls in graphs.values())
    valid = mask.bool()
    for name, weight in by_name(output).items():
        graph = graphs[name][0]
        assert graph.causal and graph.shape[:3] == (2, 2, 7)
        assert torch.equal(graph.query_mask, valid)
        rows = valid[:, None, :].expand(2, 2, 7)
        assert torch.equal(graph.weight[rows], weight[rows])
        assert (graph.weight[~rows] == 0).all()
        if name.endswith(".attention"):
            allowed = torch.ones(7, 7, dtype=torch.bool).tril() & valid[:, None] & valid[:, :, None]
            assert torch.equal(graph.visible, allowed)


def test_the_graph_gives_the_attention_output(make_decoder, words, image_states):
    """M V W_o + b_o is what comes out of the model's projection; and the metric measures after W_o."""
    model = make_decoder()
    seen = {}
    for site in sites(model):
        site.output.dense.register_forward_hook(lambda m, a, out, name=site.name: seen.update({name: out}))
        site.attention.query.register_forward_hook(lambda m, a, out, name=site.name: seen.update({name + ".q": out}))
    with read_attention(model) as graphs:
        run(model, words(), image_states())
    for site in sites(model):
        graph = graphs[site.name][0]
        output = site.output.dense.weight.detach().T.reshape(2, 8, 16)  # h d width
        got = ((graph.weight @ graph.value) @ output).sum(1) + site.output.dense.bias.detach()
        torch.testing.assert_close(got, seen[site.name], rtol=1e-5, atol=1e-5)
        assert torch.equal(graph.query.transpose(1, 2).flatten(2), seen[site.name + ".q"])  # W_q and b_q, before W_o
        projected = graph.query @ output
        norms = torch.einsum("bhnd,hde,bhne->bhn", graph.query, graph.metric, graph.query)
        torch.testing.assert_close(norms, projected.square().sum(-1), rtol=1e-4, atol=1e-4)
        assert not graph.metric.requires_grad


def test_weights_are_read_before_dropout(make_decoder, words, image_states):
    model = make_decoder(attention_probs_dropout_prob=0.5).train()
    used = {}
    for site in sites(model):
        site.attention.register_forward_hook(lambda m, a, out, name=site.name: used.update({name: out[0]}))
    with read_attention(model) as graphs:
        run(model, words(), image_states())
    for name in LAYERS:
        graph = graphs[name][0]
        torch.testing.assert_close(graph.weight.sum(-1), torch.ones(2, 2, 7))
        undropped = (graph.weight @ graph.value).transpose(1, 2).flatten(2)
        assert not torch.allclose(used[name], undropped, atol=0.1)  # the model's own messages are after it


def test_reading_changes_nothing(model, words, image_states):
    before = run(model, words(), image_states()).logits
    with read_attention(model):
        during = run(model, words(), image_states()).logits
    assert torch.equal(during, before)
    assert torch.equal(run(model, words(), image_states()).logits, before)
    with pytest.raises(ZeroDivisionError), read_attention(model):
        1 / 0  # the caller's own error comes through, and no hook stays behind
    kept = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    with read_attention(model):
        run(model, words(), image_states())
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == kept


@pytest.mark.parametrize("beams", [1, 3])
def test_cached_generation_is_recorded(model, beams, words, image_states):
    """One graph per step; the steps of a text, put together, are the graph of the whole text."""
    ids = words()
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, :3] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with read_attention(model) as graphs, torch.no_grad():
        out = model.generate(ids, attention_mask=mask, position_ids=positions, encoder_hidden_states=image_states(),
                             num_beams=beams, do_sample=False, min_new_tokens=4, max_new_tokens=4)
    for name in LAYERS:
        calls = graphs[name]
        assert [g.shape[2] for g in calls] == [7, 1, 1, 1]
        assert [g.shape[3] for g in calls] == ([5] * 4 if "cross" in name else [7, 8, 9, 10])
    if beams > 1:
        return
    mask = torch.cat([mask, torch.ones(2, 3, dtype=torch.long)], 1)
    with read_attention(model) as whole:
        run(model, out[:, :10], image_states(), attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0))
    for name in LAYERS:
        want = whole[name][0]
        rows = mask.bool()[:, None].expand(2, 2, 10)
        width = want.shape[3]
        for part in ("weight", "query"):
            steps = [getattr(g, part) for g in graphs[name]]
            if part == "weight":
                steps = [torch.nn.functional.pad(w, (0, width - w.shape[-1])) for w in steps]
            torch.testing.assert_close(torch.cat(steps, 2)[rows], getattr(want, part)[rows], rtol=1e-3, atol=1e-4)
        seen = torch.ones(2, 2, 5, dtype=torch.bool) if "cross" in name else rows  # padded tokens' values are anything
        torch.testing.assert_close(graphs[name][-1].value[seen], want.value[seen], rtol=1e-3, atol=1e-4)
        for degree in ("sum", "mean"):
            steps = [torch.nn.functional.pad(g.value_degree(degree), (0, width - g.shape[3])) for g in graphs[name]]
            torch.testing.assert_close(torch.cat(steps, 2)[rows], want.value_degree(degree)[rows], rtol=1e-3, atol=1e-4)


def test_several_calls_and_a_function_of_ones_own(model, words, image_states):
    with read_attention(model) as graphs:
        for seed in range(3):
            run(model, words(seed=seed), image_states(), use_cache=False)
    assert all(len(calls) == 3 for calls in graphs.values())
    assert all(g.past_degree is None for calls in graphs.values() for g in calls)
    order = []
    with read_attention(model, on_graph=lambda name, graph: order.append((name, graph.shape[2]))) as graphs:
        run(model, words(), image_states())
    assert order == [(name, 7) for name in LAYERS] and not any(graphs.values())


def test_a_layer_that_was_not_seen_fails_loudly(model, words, image_states):
    with pytest.raises(UserError, match="no attention was seen in layer.0.attention, layer.0.crossattention"):
        with read_attention(model):
            pass
    with pytest.raises(UserError, match="no attention was seen in layer.0.crossattention, layer.1.crossattention"):
        with read_attention(model), torch.no_grad():
            model(words())  # without image states cross-attention does not run
    with pytest.raises(UserError):
        with read_attention(model, on_graph=lambda name, graph: None):
            pass


def test_reading_must_start_with_the_cache(model, words, image_states):
    cache = run(model, words(), image_states(), use_cache=True).cache
    with pytest.raises(UserError, match="cache holds 7 earlier tokens, but the attention graph saw 0"):
        with read_attention(model):
            run(model, words()[:, :1], image_states(), cache=cache, use_cache=True)


def test_one_text_model_is_needed(make_captioner):
    captioner = make_captioner()
    assert text_model(captioner) is captioner.text_decoder.bert
    with pytest.raises(UserError, match="Linear holds 0 BlipTextModel modules"):
        text_model(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="holds 2 BlipTextModel"):
        text_model(torch.nn.ModuleList([captioner, make_captioner()]))


def test_an_encoder_is_not_causal(words):
    config = BlipTextConfig(vocab_size=41, hidden_size=16, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8,
                            is_decoder=False, attn_implementation="eager")
    encoder = BlipTextModel(config).eval()
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[0, 4:] = 0
    with read_attention(encoder) as graphs, torch.no_grad():
        encoder(words(), attention_mask=mask)
    graph = graphs["layer.0.attention"][0]
    assert not graph.causal and torch.equal(graph.query_mask, mask.bool())
    assert (graph.weight[1, 0, 0] > 0).all() and (graph.weight[0, :, :, 4:] == 0).all()


def test_the_metric_is_the_gram_matrix_of_each_head(make_decoder):
    dense = make_decoder().bert.encoder.layer[0].attention.output.dense
    metric = head_metric(dense, 2)
    for h in range(2):
        w = dense.weight[:, 8 * h:8 * h + 8].T  # W_o^h: features of one head to the model's width
        torch.testing.assert_close(metric[h], w @ w.T)
    half = head_metric(dense.to(torch.bfloat16), 2)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, metric, rtol=0.05, atol=0.05)
