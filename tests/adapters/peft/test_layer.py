"""What the layers of an adapted model compute, and what they refuse."""

import pytest
import torch
from peft import get_peft_model
from torch import nn

from attngraph import UserError
from attngraph.adapters.peft.layer import OutputLayer
from attngraph.adapters.query_rows import with_query_rows
from attngraph.adapters.scalar import SPEED
from attngraph.reading.instrument import instrument
from tests.adapters.peft import blip_decoder as blip
from tests.adapters.peft.blip_decoder import adapters_of, logits
from tests.adapters.peft.helpers import close, config, differ, put, run
from tests.adapters.peft_models import FAMILIES


def test_gcn_under_replace_is_the_vanilla_adapter(make_decoder, words, image_states):
    """Against adapters put after the model's own output projections by hooks, without any graph."""
    model, plain = make_decoder(), make_decoder()
    adapters = adapters_of(blip.put(model, "gcn", join="replace"))

    def vanilla(adapter):
        bottleneck = adapter.join.bottleneck if hasattr(adapter, "join") else adapter
        return lambda module, args, u: u + bottleneck.up(nn.functional.gelu(bottleneck.down(u)))

    for name, adapter in adapters.items():
        plain.get_submodule(name).register_forward_hook(vanilla(adapter))
    ids, states = words(), image_states()
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    valid = mask.bool()  # padded rows are nodes without edges here
    got, want = logits(model, ids, states, mask)[valid], logits(plain, ids, states, mask)[valid]
    close(got, want, 1e-6)
    assert differ(want, logits(make_decoder(), ids, states, mask)[valid]) and len(adapters) == 6


@pytest.mark.parametrize(
    "family, gnn, settings",
    [
        ("gpt2", "pgnn", dict(rescale=True)),  # Conv1D
        ("llama", "gcnii", dict(top_k=2)),  # grouped heads, no b_o
        ("llama", "appnp", dict(join="gated", rescale=True, query_rows="zero")),
        ("llama", "gcnii", dict(join="blend")),
        ("t5", "tempering", dict(query_rows="noise")),
        ("blip", "gcn", dict(normalize=True, top_k=3, positions="cross")),
        ("blip", "pgnn", dict(rescale=True, degree="mean", mu=0.0)),
    ],
    ids=str,
)
def test_the_scheme_runs_on_the_layers_own_graph(family, gnn, settings):
    """The adapted projection, recomputed from the recorded call with explicit W_o and b_o, and each join's
    formula. Rescaled features have the length of U before b_o."""
    model = put(family, gnn, **{"join": "replace", "positions": "self", **settings})
    base = model.get_base_model()
    handle, calls, seen = instrument(base), [], []
    sites = [site for site in handle.sites.values() if site.output_name]
    site = next(x for x in sites if isinstance(base.get_submodule(x.output_name), OutputLayer))
    site.listeners.append(calls.append)
    layer = base.get_submodule(site.output_name)
    layer.register_forward_hook(lambda module, args, output: seen.append(output))
    adapter, share = layer.gnn_adapter["default"], 0.3
    if settings.get("join") == "blend":
        nn.init.constant_(adapter.join.share.stored, share / SPEED)
    run(model, FAMILIES[family].batch())
    handle.remove()
    call = calls[0]
    weight = site.output.weight if family == "gpt2" else site.output.weight.T
    output = weight.reshape(call.query.shape[1], -1, weight.shape[1])  # h d width
    with torch.no_grad():
        graph = call.graph(metric=output @ output.transpose(-1, -2))
        u = ((graph.weight @ graph.value) @ output).sum(1)
        graph = graph.sparsify(top_k=adapter.top_k) if adapter.top_k else graph
        u_bar = (adapter.scheme(with_query_rows(graph, adapter.query_rows)) @ output).sum(1)
        if adapter.rescale:
            u_bar = u_bar * (u.norm(dim=-1) / u_bar.norm(dim=-1))[..., None]
        u, u_bar = (x + (0 if site.output.bias is None else site.output.bias) for x in (u, u_bar))
        bottleneck, combine = adapter.join.bottleneck, adapter.scheme.combine
        if settings.get("join") == "gated":
            gate = nn.functional.gelu(adapter.join.gate(u))
            want = u + bottleneck.up(gate * bottleneck.down(u_bar))
        elif settings.get("join") == "blend":
            h = (1 - share) * u + share * u_bar
            change = bottleneck.up(nn.functional.gelu(bottleneck.down(h)))
            want = (1 - share) * (h + change) + share * combine(h, change)
        else:
            want = combine(u_bar, bottleneck.up(nn.functional.gelu(bottleneck.down(u_bar))))
        close(seen[0], want)


def test_dropout(make_decoder, words, image_states):
    """In training, a new adapter draws what the model draws, whose dropout after W_o acts on the adapter's
    output; the graph carries the weights after dropout."""
    noisy = dict(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3)
    base, model = make_decoder(**noisy).train(), make_decoder(**noisy)
    adapted = get_peft_model(model, config(init_weights=True)).train()
    graphs = []
    for adapter in adapters_of(adapted).values():
        if hasattr(adapter, "scheme"):
            adapter.scheme.register_forward_pre_hook(lambda scheme, args: graphs.append(args[0]))
    ids, states = words(), image_states()
    torch.manual_seed(5)
    want = logits(base, ids, states)
    assert not torch.allclose(logits(base, ids, states), want, atol=0.05)
    torch.manual_seed(5)
    got = logits(adapted, ids, states)
    close(got, want, 1e-5)  # to the last bit in evaluation
    assert len(graphs) == 4
    sums = torch.cat([g.weight.sum(-1).flatten() for g in graphs])
    assert not torch.allclose(sums, torch.ones_like(sums), atol=0.05)  # dropped, and the rest scaled by 1/0.7
    assert (graphs[1].weight == 0).any()


def test_new_base_weights_are_noticed(make_decoder, words, image_states):
    """The metric is kept between calls, but never older than W_o."""
    model, other = make_decoder(0), make_decoder(1)
    blip.put(model, join="replace"), blip.put(other, join="replace")
    ids, states = words(), image_states()
    before = logits(model, ids, states)
    model.load_state_dict(other.state_dict())
    after = logits(model, ids, states)
    assert torch.equal(after, logits(other, ids, states)) and not torch.allclose(after, before, atol=0.05)
    logits(model.double(), ids, states.double())
    close(logits(model.float(), ids, states), logits(other, ids, states), 1e-6)


def test_what_changes_attention_afterwards_is_noticed():
    """Another attention function, and a gate before the projection."""
    batch, model = FAMILIES["gpt2"].batch(), put("gpt2")
    model.get_base_model().transformer.h[0].attn.c_proj.register_forward_pre_hook(lambda _, args: args[0] / 2)
    message = "h.0.attn.c_proj .with a gate or a norm. or its layout.*exclude_modules="
    with pytest.raises(UserError, match=message):
        run(model, batch)
    model = put("gpt2")
    model.get_base_model().set_attn_implementation("sdpa")
    with pytest.raises(UserError, match="was not captured: its implementation was changed after"):
        run(model, batch)


@pytest.mark.parametrize("before", ["switched off", "compiled"])
def test_a_pass_that_was_not_checked_hides_nothing_in_the_next_one(before):
    model, batch = put("llama", positions="ffn"), FAMILIES["llama"].batch()
    mlp = model.get_base_model().model.layers[0].mlp
    if before == "compiled":
        mlp.down_proj.compile(backend="eager")
        run(model, batch)
    else:
        with model.disable_adapter():
            run(model, batch)
    mlp.forward = lambda x: x @ mlp.down_proj.base_layer.weight[:, :16]
    with pytest.raises(UserError, match="layers.0.mlp.down_proj was not used in a pass of LlamaMLP"):
        run(model, batch)


def test_the_smallest_module_that_cannot_do_without_the_layer_looks_after_it():
    model, batch = put("bert", positions="self"), FAMILIES["bert"].batch()
    output = model.get_base_model().bert.encoder.layer[0].attention.output
    output.forward = lambda context, hidden: hidden
    with pytest.raises(UserError, match="attention.output.dense was not used in a pass of BertAttention"):
        run(model, batch)
