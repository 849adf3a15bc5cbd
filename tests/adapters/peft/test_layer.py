"""What the layers of an adapted model compute, and what they refuse."""

import pytest
import torch
import transformers as hf
from peft import get_peft_model
from torch import nn

from adapters import SCHEMES
from adapters.query_rows import with_query_rows
from adapters.scalar import SPEED
from attngraph import UserError, capture
from attngraph.reading.instrument import instrument
from tests.adapters.peft import blip_decoder as blip
from tests.adapters.peft.blip_decoder import JOINS, VARIANTS, adapters_of, logits
from tests.adapters.peft.helpers import SCHEME_ARGS, close, config, differ, put, run
from tests.adapters.peft_models import FAMILIES, pixels
from tests.attngraph.reading.zoo import VISION, far_from_zero
from tests.pairwise import pairwise_params

every_variant = pytest.mark.parametrize("gnn, args", VARIANTS, ids=str)


def test_every_scheme_is_tried_here():
    assert set(SCHEME_ARGS) == {
        name for name, scheme in SCHEMES.items() if scheme.__module__.startswith("adapters.")
    }


@pytest.mark.parametrize(
    "seed, positions", [(0, ("self", "cross", "ffn")), (1, ("cross",)), (2, ("self", "ffn"))]
)
def test_gcn_under_replace_is_the_vanilla_adapter(seed, positions, make_decoder, words, image_states):
    """Against adapters put after the model's own output projections by hooks, without any graph."""
    model, plain = make_decoder(seed), make_decoder(seed)
    adapters = adapters_of(blip.put(model, "gcn", join="replace", positions=positions, seed=seed))

    def vanilla(adapter):
        bottleneck = adapter.join.bottleneck if hasattr(adapter, "join") else adapter
        return lambda module, args, u: u + bottleneck.up(nn.functional.gelu(bottleneck.down(u)))

    for name, adapter in adapters.items():
        plain.get_submodule(name).register_forward_hook(vanilla(adapter))
    ids, states = words(seed=seed), image_states(seed=seed)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    valid = mask.bool()  # padded rows are nodes without edges here
    got, want = logits(model, ids, states, mask)[valid], logits(plain, ids, states, mask)[valid]
    close(got, want, 1e-6)
    assert not torch.allclose(want, logits(make_decoder(seed), ids, states, mask)[valid], atol=0.1)
    assert len(adapters) == 2 * len(positions)


@pytest.mark.parametrize(
    "gnn, args, top_k", [*((*x, None) for x in VARIANTS), *((*x, 2) for x in VARIANTS[2:5])], ids=str
)
def test_the_model_uses_the_schemes_own_numbers(gnn, args, top_k, make_decoder, words, image_states):
    """Layer 0's cross-attention under replace, recomputed from the recorded graph with explicit W_o."""
    model = make_decoder()
    blip.put(model, gnn, args, join="replace", positions="cross", top_k=top_k)
    block = model.bert.encoder.layer[0].crossattention
    adapter, seen = block.output.dense.gnn_adapter["default"], []
    block.output.register_forward_hook(lambda module, inputs, output: seen.append((inputs[1], output)))
    graphs = capture(model, {"input_ids": words(), "encoder_hidden_states": image_states()})
    projection = block.output.dense.base_layer
    with torch.no_grad():
        graph = graphs["bert.encoder.layer.0.crossattention.self"]
        graph = with_query_rows(graph, args.get("query_rows", "query"))
        heads = adapter.scheme(graph if top_k is None else graph.sparsify(top_k=top_k))
        output = projection.weight.T.reshape(2, 8, 16)  # W_o, one slice per head
        u = (heads @ output).sum(1)
        if args.get("rescale"):  # the length of U, before the bias
            u = u * ((graph.weight @ graph.value @ output).sum(1).norm(dim=-1) / u.norm(dim=-1))[..., None]
        u = u + projection.bias
        beta = getattr(adapter.scheme, "beta", None)
        update = adapter.join.bottleneck(u)
        joined = u + update if beta is None else (1 - beta) * u + beta * update
        close(seen[0][1], block.output.LayerNorm(joined + seen[0][0]))


@pytest.mark.parametrize(
    "family, gnn",
    [*((x, "pgnn") for x in ("gpt2", "llama", "t5", "bert")), *(("gpt2", x) for x in SCHEME_ARGS)],
)
def test_the_scheme_runs_on_the_layers_own_graph(family, gnn):
    """The adapted projection, recomputed from the recorded call with explicit W_o and b_o."""
    model = put(family, gnn, join="replace", positions="self")
    handle = instrument(model.get_base_model())
    site = next(iter(handle.sites.values()))
    calls, seen = [], []
    site.listeners.append(calls.append)
    layer = model.get_base_model().get_submodule(site.output_name)
    layer.register_forward_hook(lambda module, args, output: seen.append(output))
    run(model, FAMILIES[family].batch())
    adapter, call = layer.gnn_adapter["default"], calls[0]
    weight = site.output.weight if family == "gpt2" else site.output.weight.T
    output = weight.reshape(call.query.shape[1], -1, weight.shape[1])  # h d width
    with torch.no_grad():
        heads = adapter.scheme(call.graph(metric=output @ output.transpose(-1, -2)))
        u = (heads @ output).sum(1) + (0 if site.output.bias is None else site.output.bias)
        close(seen[0], adapter.scheme.combine(u, adapter.join.bottleneck(u)))


@pytest.mark.parametrize(
    "gnn, args, join", [(*variant, JOINS[k % 3]) for k, variant in enumerate(VARIANTS)], ids=str
)
def test_sparse_equals_dense(gnn, args, join, make_decoder, words, image_states):
    ids, states = words(), image_states()
    dense, sparse = make_decoder(), make_decoder()
    blip.put(dense, gnn, args, join=join), blip.put(sparse, gnn, args, join=join, backend="sparse")
    close(logits(sparse, ids, states), logits(dense, ids, states), 1e-4)
    assert adapters_of(sparse)["bert.encoder.layer.0.attention.output.dense"].backend == "sparse"


@pytest.mark.parametrize("gnn, join", pairwise_params(gnn=list(blip.SCHEME_ARGS), join=JOINS))
def test_a_new_adapter_leaves_the_model_untouched(gnn, join, make_decoder, words, image_states):
    """Exactly under blend and gated, and for GCN in all three; replace changes it for the other schemes,
    which is why blend exists."""
    model = make_decoder()
    ids, states = words(), image_states()
    before = logits(model, ids, states)
    after = logits(get_peft_model(model, config(gnn, join=join, init_weights=True)), ids, states)
    if join != "replace":
        assert torch.equal(after, before)
    elif gnn == "gcn":
        close(after, before, 1e-6)
    else:
        assert not torch.allclose(after, before, atol=0.05)


@pytest.mark.parametrize(
    "family, gnn, join",
    [
        *((family, "pgnn", "blend") for family in FAMILIES),
        *((family, gnn, "gated") for family, gnn in zip(FAMILIES, [*SCHEME_ARGS] * 3)),
        ("t5", "gcn", "replace"),
        ("llava", "gcn", "replace"),
    ],
)
def test_a_new_adapter_leaves_every_family_untouched(family, gnn, join):
    model = FAMILIES[family].make()
    model.set_attn_implementation("eager")
    want = run(model, FAMILIES[family].batch())
    got = run(get_peft_model(model, config(gnn, join=join, init_weights=True)), FAMILIES[family].batch())
    if join == "replace":
        close(got, want, 1e-6)
    else:
        assert torch.equal(got, want)


@pytest.mark.parametrize("gnn", blip.SCHEME_ARGS)
def test_blend_with_a_full_share_is_replace(gnn, make_decoder, words, image_states):
    one, two = make_decoder(), make_decoder()
    blip.put(one, gnn, join="replace"), blip.put(two, gnn, join="blend")
    missing = two.load_state_dict(one.state_dict(), strict=False).missing_keys
    shares = {name: p for name, p in two.named_parameters() if name in missing}
    assert len(shares) == 4 and all(name.endswith("join.share.stored") for name in shares)
    for share in shares.values():
        nn.init.constant_(share, 1 / SPEED)
    close(logits(two, words(), image_states()), logits(one, words(), image_states()))


def test_adapters_are_drawn_in_the_order_of_the_model(make_decoder):
    """A seed gives the same initial weights every time."""
    places = ["attention.output.dense", "crossattention.output.dense", "output.dense"]
    adapters = adapters_of(blip.put(make_decoder(), seed=3))
    assert list(adapters) == [f"bert.encoder.layer.{k}.{place}" for k in (0, 1) for place in places]
    again, other = (adapters_of(blip.put(make_decoder(), seed=seed)) for seed in (3, 4))
    for name in adapters:
        weights, same, different = (list(x[name].parameters()) for x in (adapters, again, other))
        assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(weights, different, strict=True))


@pytest.mark.parametrize("join", JOINS)
def test_dropout(join, make_decoder, words, image_states):
    """In training, a new adapter draws what the model draws, whose dropout after W_o acts on the adapter's
    output; the graph carries the weights after dropout."""
    noisy = dict(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3)
    base, model = make_decoder(**noisy).train(), make_decoder(**noisy)
    adapted = get_peft_model(model, config(join=join, init_weights=True)).train()
    graphs, order = [], []
    for adapter in adapters_of(adapted).values():
        if hasattr(adapter, "scheme"):
            adapter.scheme.register_forward_pre_hook(lambda scheme, args: graphs.append(args[0]))
    block = model.bert.encoder.layer[0].attention.output
    block.dense.register_forward_hook(lambda module, args, output: order.append(output))
    block.dropout.register_forward_pre_hook(lambda module, args: order.append(args[0]))
    ids, states = words(), image_states()
    torch.manual_seed(5)
    want = logits(base, ids, states)
    assert not torch.allclose(logits(base, ids, states), want, atol=0.05)
    torch.manual_seed(5)
    got = logits(adapted, ids, states)
    if join == "blend":
        close(got, want, 1e-5)  # to the last bit in evaluation
    assert len(order) == 2 and order[0] is order[1]
    assert len(graphs) == 4
    sums = torch.cat([g.weight.sum(-1).flatten() for g in graphs])
    assert not torch.allclose(sums, torch.ones_like(sums), atol=0.05)  # dropped, and the rest scaled by 1/0.7
    assert (graphs[1].weight == 0).any()


@pytest.mark.parametrize("family", ["bert", "gpt2", "bart", "t5"])
def test_while_training_a_new_adapter_draws_the_dropout_that_the_model_draws(family):
    base, batch = FAMILIES[family].make().train(), FAMILIES[family].batch()
    base.set_attn_implementation("eager")
    torch.manual_seed(5)
    want = run(base, batch)
    assert differ(run(base, batch), want)
    model = get_peft_model(base, config(init_weights=True)).train()
    torch.manual_seed(5)
    close(run(model, batch), want, 1e-5)  # to the last bit in evaluation


def test_a_decoder_run_without_a_causal_mask_is_not_causal(make_decoder, words, image_states):
    """BLIP takes that from the call. Bidirectionally, the value degrees sum over all queries."""
    model = make_decoder()
    seen = []
    for adapter in adapters_of(blip.put(model, "appnp", join="replace", positions="self")).values():
        adapter.scheme.register_forward_pre_hook(lambda scheme, args: seen.append(args[0]))
    ids, states = words(), image_states()
    with torch.no_grad():
        model.bert(ids, encoder_hidden_states=states, use_cache=False)
        assert [graph.causal for graph in seen] == [False, False]
        assert (seen[0].weight[:, :, 0] > 0).all()
        logits(model, ids, states)
    assert [graph.causal for graph in seen] == [False, False, True, True]


def test_attentions_are_still_recorded(make_decoder, words, image_states):
    model = make_decoder()
    inputs = dict(input_ids=words(), encoder_hidden_states=image_states(), output_attentions=True)
    want = model(**inputs)
    got = get_peft_model(model, config(init_weights=True))(**inputs)
    for name in ("attentions", "cross_attentions"):
        assert all(torch.equal(a, b) for a, b in zip(got[name], want[name], strict=True))


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


def test_another_attention_function_set_afterwards_is_noticed():
    model = put("gpt2")
    model.get_base_model().set_attn_implementation("sdpa")
    with pytest.raises(UserError, match="ran unseen: its implementation was changed after the adapters"):
        run(model, FAMILIES["gpt2"].batch())


def test_a_gate_before_the_projection_is_noticed():
    model = FAMILIES["gpt2"].make()
    projection = model.transformer.h[0].attn.c_proj
    torch.manual_seed(0)
    adapted = get_peft_model(model, config())
    layer = model.transformer.h[0].attn.c_proj
    assert layer.base_layer is projection
    layer.register_forward_pre_hook(lambda module, args: (args[0] * 0.5,))
    with pytest.raises(UserError, match="h.0.attn.c_proj takes it .a gate or a norm.*exclude="):
        run(adapted, FAMILIES["gpt2"].batch())


def test_pytorchs_own_attention_layer():
    """SigLIP's pooling head: an adapter behind it learns, and switched off the model is as before."""
    model, batch = (
        far_from_zero(hf.SiglipVisionModel(hf.SiglipVisionConfig(**VISION)), 0),
        pixels(torch.ones(2)),
    )

    def pooled():
        return model(**batch).pooler_output

    with torch.no_grad():
        want = pooled()
    adapted = get_peft_model(model, config(positions="self", target_modules=["head.attention"]))
    assert all("head.attention.out_proj" in name for name, p in adapted.named_parameters() if p.requires_grad)
    got = pooled()
    assert differ(got, want)
    got.square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in adapted.parameters() if p.requires_grad)
    with torch.no_grad(), adapted.disable_adapter():
        close(pooled(), want, 1e-6)  # PyTorch's last bit depends on whether weights are frozen
    model = adapted.unload()
    with torch.no_grad():
        close(pooled(), want, 1e-6)


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
    with pytest.raises(UserError, match="layers.0.mlp.down_proj had no part in a pass of LlamaMLP"):
        run(model, batch)
