"""Adapters inside Hugging Face's BLIP decoder: what they compute, what they must not see, and decoding with a cache."""

import copy
import functools
import io

import pytest
import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache

from adapters.adapter import SCALAR_SPEED, AdapterSet
from adapters.blip import attach
from adapters.config import AdapterConfig
from attngraph import UserError, capture

GNNS = {
    "gcn": {},
    "appnp": {"alpha": 0.2, "steps": 2},
    "gcnii": {"alpha": 0.2, "theta": 1.2, "steps": 2},
    "pgnn": {"p": 1.25, "mu": 0.1, "steps": 3},
}
MORE = [
    ("gcn", {"normalize": True}),
    ("residual", {"alpha": 0.3}),
    ("appnp", {"degree": "mean"}),
    ("pgnn", {"p": 2.5, "mu": 0.0, "degree": "mean"}),
    ("pgnn", {"p": 2.0, "learn_p": False, "steps": 1}),
]
EVERY = [*GNNS.items(), *MORE]
every_gnn = pytest.mark.parametrize("gnn, args", EVERY, ids=str)
four_gnns = pytest.mark.parametrize("gnn", GNNS)
every_join = pytest.mark.parametrize("join", ["replace", "gated", "blend"])


def put(model, gnn="pgnn", args=None, join="blend", seed=0, **settings) -> AdapterSet:
    """Adapters with random weights, as if trained: nothing at its neutral value."""
    adapters = attach(
        model,
        AdapterConfig(gnn, GNNS.get(gnn, {}) if args is None else args, join=join, reduction=4, **settings),
    )
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in adapters.state_dict().items():
            if name.endswith("share"):
                tensor.fill_(0.6)
            elif not name.endswith(("p_logit", "log_mu")):
                tensor.copy_(torch.randn(tensor.shape, generator=draw) * 0.4)
    return adapters


def run(model, ids, states, mask=None, left=False, **more):
    """Logits; ``left`` numbers the positions from the first valid token."""
    if left:
        more["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        return model(ids, attention_mask=mask, encoder_hidden_states=states, use_cache=False, **more).logits


def close(got, want, tolerance=2e-5):
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * float(want.abs().max()))


# ---- what they compute --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("positions", [("self", "cross", "ffn"), ("cross",), ("self", "ffn")], ids="+".join)
def test_gcn_under_replace_is_the_vanilla_adapter(seed, positions, make_decoder, words, image_states):
    """Against adapters put after the model's own output projections by hooks, without any graph."""
    model, plain = make_decoder(seed), make_decoder(seed)
    weights = put(model, "gcn", join="replace", positions=positions, seed=seed).state_dict()

    def vanilla(place):
        down_w, down_b, up_w, up_b = (
            weights[f"{place}.{k}"] for k in ("down.weight", "down.bias", "up.weight", "up.bias")
        )

        def after_projection_and_dropout(module, args, u):
            return u + nn.functional.linear(
                nn.functional.gelu(nn.functional.linear(u, down_w, down_b)), up_w, up_b
            )

        return after_projection_and_dropout

    for k, layer in enumerate(plain.bert.encoder.layer):
        if "self" in positions:
            layer.attention.output.dropout.register_forward_hook(
                vanilla(f"layer.{k}.attention.join.bottleneck")
            )
        if "cross" in positions:
            layer.crossattention.output.dropout.register_forward_hook(
                vanilla(f"layer.{k}.crossattention.join.bottleneck")
            )
        if "ffn" in positions:
            layer.output.dropout.register_forward_hook(vanilla(f"layer.{k}.ffn"))
    ids, states = words(seed=seed), image_states(seed=seed)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    valid = mask.bool()  # padded rows are nodes without edges here
    got, want = run(model, ids, states, mask)[valid], run(plain, ids, states, mask)[valid]
    close(got, want, 1e-6)
    assert not torch.allclose(want, run(make_decoder(seed), ids, states, mask)[valid], atol=0.1)


@every_gnn
@pytest.mark.parametrize("top_k", [None, 2])
def test_the_model_uses_the_schemes_own_numbers(gnn, args, top_k, make_decoder, words, image_states):
    """Layer 0's cross-attention under replace, recomputed from the recorded graph with explicit W_o, b_o and LayerNorm."""
    model = make_decoder()
    adapters = put(model, gnn, args, join="replace", positions=("cross",), top_k=top_k)
    block = model.bert.encoder.layer[0].crossattention
    seen = []
    block.output.register_forward_hook(lambda module, inputs, output: seen.append((inputs[1], output)))
    graphs = capture(model, {"input_ids": words(), "encoder_hidden_states": image_states()})
    scheme, join = (
        adapters.modules["layer.0.crossattention"].scheme,
        adapters.modules["layer.0.crossattention"].join,
    )
    with torch.no_grad():
        graph = graphs["bert.encoder.layer.0.crossattention.self"]
        heads = scheme(graph if top_k is None else graph.sparsify(top_k=top_k))
        output = block.output.dense.weight.T.reshape(2, 8, 16)  # W_o, one slice per head
        u = (heads @ output).sum(1) + block.output.dense.bias
        beta = getattr(scheme, "beta", None)
        update = join.bottleneck(u)
        joined = u + update if beta is None else (1 - beta) * u + beta * update
        close(seen[0][1], block.output.LayerNorm(joined + seen[0][0]))


@every_gnn
@every_join
def test_sparse_equals_dense(gnn, args, join, make_decoder, words, image_states):
    ids, states = words(), image_states()
    dense, sparse = make_decoder(), make_decoder()
    put(dense, gnn, args, join), put(sparse, gnn, args, join, backend="sparse")
    close(run(sparse, ids, states), run(dense, ids, states), 1e-4)


def test_adapters_are_made_in_a_fixed_order(make_decoder):
    """A seed gives the same initial weights in every version, and published tables can be made again."""
    names = ["attention", "ffn", "crossattention"]
    assert list(put(make_decoder()).modules) == [f"layer.{k}.{name}" for k in (0, 1) for name in names]


@four_gnns
@every_join
@pytest.mark.parametrize("seed", [0, 1])
def test_a_new_adapter_leaves_the_model_untouched(gnn, join, seed, make_decoder, words, image_states):
    """Exactly under blend and gated, and for GCN in all three; replace changes it for the other schemes, which is why
    blend exists."""
    model = make_decoder(seed)
    ids, states = words(seed=seed), image_states(seed=seed)
    before = run(model, ids, states)
    attach(model, AdapterConfig(gnn, GNNS[gnn], join=join, reduction=4))
    after = run(model, ids, states)
    if join != "replace":
        assert torch.equal(after, before)
    elif gnn == "gcn":
        close(after, before, 1e-6)
    else:
        assert not torch.allclose(after, before, atol=0.05)


def test_blend_with_a_full_share_is_replace(make_decoder, words, image_states):
    for gnn in GNNS:
        one, two = make_decoder(), make_decoder()
        replace, blend = put(one, gnn, join="replace"), put(two, gnn, join="blend")
        blend.load_state_dict(
            {
                k: torch.ones(()) if k.endswith("share") else replace.state_dict()[k]
                for k in blend.state_dict()
            }
        )
        close(run(two, words(), image_states()), run(one, words(), image_states()))


# ---- what they must not see ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["dense", "sparse"])
@pytest.mark.parametrize(
    "gnn, args", [*EVERY, *(("pgnn", {"steps": k}) for k in (1, 2)), ("appnp", {"steps": 3})], ids=str
)
def test_later_tokens_do_not_change_earlier_logits(gnn, args, backend, make_decoder, words, image_states):
    model = make_decoder()
    put(model, gnn, args, join="replace", backend=backend)
    ids, states = words(), image_states()
    want = run(model, ids, states)
    for k in (1, 3, 6):
        changed = torch.cat([ids[:, :k], words(seed=k + 1)[:, k:]], 1)
        got = run(model, changed, states)
        close(got[:, :k], want[:, :k], 1e-5)
        assert not torch.allclose(got[:, k:], want[:, k:], atol=0.05)


@every_gnn
@every_join
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_padding(gnn, args, join, left, make_decoder, words, image_states):
    model = make_decoder()
    put(model, gnn, args, join)
    ids, states = words(3, 7), image_states(3)
    mask = torch.ones(3, 7, dtype=torch.long)
    columns = [slice(0, 7), slice(2, 7) if left else slice(0, 5), slice(6, 7) if left else slice(0, 1)]
    for row, column in enumerate(columns):
        mask[row] = 0
        mask[row, column] = 1
    together = run(model, ids, states, mask, left)
    for row, column in enumerate(columns):
        alone = run(model, ids[row : row + 1, column], states[row : row + 1])
        close(together[row : row + 1, column], alone)


def test_padding_under_a_4d_mask(make_decoder, words, image_states):
    """A mask made by the caller, as for packed texts, counts as well as a 2D one."""
    model = make_decoder()
    put(model, "pgnn", {"degree": "mean"}, join="replace")
    ids, states = words(), image_states()
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, :3] = 0
    allowed = torch.ones(7, 7, dtype=torch.bool).tril() & mask[:, None, None].bool()
    added = torch.zeros(2, 1, 7, 7).masked_fill(~allowed, torch.finfo(torch.float32).min)
    rows = mask.bool()
    close(run(model, ids, states, added)[rows], run(model, ids, states, mask)[rows])


# ---- decoding with a cache ----------------------------------------------------------------------------------------


def step(model, ids, states, cache, mask=None, positions=None):
    with torch.no_grad():
        out = model(
            ids,
            attention_mask=mask,
            position_ids=positions,
            encoder_hidden_states=states,
            use_cache=True,
            cache=cache,
        )
    return out.logits, out.cache


def left_padded(words):
    ids, mask = words(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[1, :2] = 0
    return ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)


@every_gnn
@every_join
@pytest.mark.parametrize("chunks", [(1,) * 9, (3, 1, 1, 4)], ids=["token by token", "chunks"])
def test_cached_equals_uncached(gnn, args, join, chunks, make_decoder, words, image_states):
    model = make_decoder()
    put(model, gnn, args, join)
    ids, mask, positions = left_padded(words)
    states = image_states()
    want, got, cache, end = run(model, ids, states, mask, left=True), [], None, 0
    for size in chunks:
        start, end = end, end + size
        logits, cache = step(model, ids[:, start:end], states, cache, mask[:, :end], positions[:, start:end])
        got.append(logits)
    rows = mask.bool()
    close(torch.cat(got, 1)[rows], want[rows])


@four_gnns
@pytest.mark.parametrize("settings", [{}, {"top_k": 2}, {"backend": "sparse"}], ids=str)
def test_cropping_the_cache_forgets(gnn, settings, make_decoder, words, image_states):
    model = make_decoder()
    put(model, gnn, join="replace", **settings)
    ids, mask, positions = left_padded(words)
    states = image_states()
    want = run(model, ids, states, mask, left=True)
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
    logits, _ = step(model, ids[:, start:], states, cache, mask, positions[:, start:])
    close(logits, want[:, start:])


@four_gnns
def test_reordering_and_changing_the_batch(gnn, make_decoder, words, image_states):
    model = make_decoder()
    put(model, gnn, join="replace")
    ids, mask, positions = left_padded(words)
    states = image_states()
    want = run(model, ids, states, mask, left=True)
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
        logits, _ = step(model, ids[order, 4:], states[order], cache, mask[order], positions[order, 4:])
        close(logits, want[order, 4:])


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
        logits, _ = step(model, text[:, 3:], states, copy.deepcopy(kept))
        close(logits, run(model, text, states)[:, 3:])
    cache.reset()
    logits, _ = step(model, other, states, cache)
    close(logits, run(model, other, states))


def test_a_cache_filled_without_the_adapters_is_refused(make_decoder, words, image_states):
    model = make_decoder()
    adapters = put(model, "appnp")
    with adapters.disabled():
        _, cache = step(model, words()[:, :3], image_states(), None)
    with pytest.raises(UserError, match="cache holds 3 earlier tokens, but the attention graph saw 0"):
        step(model, words()[:, 3:], image_states(), cache)


def test_a_ready_made_cache(make_decoder, words, image_states):
    model = make_decoder()
    put(model, "pgnn")
    ids, states = words(), image_states()
    for cache in (DynamicCache(), EncoderDecoderCache(DynamicCache(), DynamicCache())):
        logits, _ = step(model, ids, states, cache)
        close(logits, run(model, ids, states))


@every_gnn
@pytest.mark.parametrize("beams", [1, 3])
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


# ---- training -----------------------------------------------------------------------------------------------------


@every_join
def test_only_the_adapters_learn(join, make_captioner, words, image_states):
    model = make_captioner()
    base = {name for name, _ in model.named_parameters()}
    adapters = put(model, join=join)
    learn = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learn == {name for name, _ in model.named_parameters()} - base and all(
        "attngraph_adapter" in n for n in learn
    )
    assert {id(p) for p in adapters.parameters()} == {id(p) for p in model.parameters() if p.requires_grad}
    assert adapters.count() == sum(p.numel() for p in model.parameters() if p.requires_grad)
    ids = words()
    model(pixel_values=torch.randn(2, 3, 8, 8), input_ids=ids, labels=ids).loss.backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0
        for p in adapters.parameters()
    )
    assert all(p.grad is None for name, p in model.named_parameters() if name in base)
    adapters.detach()
    assert {name for name, p in model.named_parameters() if p.requires_grad} == base


def test_a_layer_of_adapters_can_be_trained_from_its_start(make_decoder, words, image_states):
    """Under blend every parameter but those behind the zero W_up gets a gradient at step 0, the share first of all."""
    model = make_decoder()
    adapters = attach(model, AdapterConfig("pgnn", join="blend"))
    nn.functional.cross_entropy(
        model(words(), encoder_hidden_states=image_states()).logits.flatten(0, 1), words(seed=1).flatten()
    ).backward()
    for place, module in adapters.modules.items():
        if not place.endswith("ffn"):
            assert module.join.share.grad.abs() > 0
            assert module.join.bottleneck.up.weight.grad.abs().sum() > 0


@every_join
def test_the_four_gnns_have_equal_parameter_counts(join, make_decoder):
    counts = {}
    for gnn, args in GNNS.items():
        adapters = attach(make_decoder(), AdapterConfig(gnn, args, join=join))
        counts[gnn] = adapters.count()
        scalars = [
            p
            for module in adapters.modules.values()
            if hasattr(module, "scheme")
            for p in module.scheme.parameters()
        ]
        assert [p.numel() for p in scalars] == ([1] * 4 if gnn == "pgnn" else [])
    assert counts["gcn"] == counts["appnp"] == counts["gcnii"] == counts["pgnn"] - 4
    bottleneck = 2 * 16 * 2 + 2 + 16  # width 16, reduction 8
    extra = {"replace": 0, "gated": 16 * 2 + 2, "blend": 1}[join]
    assert counts["gcn"] == 2 * (3 * bottleneck + 2 * extra)


@every_join
def test_scalars_and_biases_are_never_decayed(join, make_decoder):
    adapters = attach(make_decoder(), AdapterConfig("pgnn", {"learn_mu": True}, join=join))
    matrices, biases, scalars = groups = adapters.optimizer_groups(1e-3, 0.05)
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0, 0.0]
    assert [group["lr"] for group in groups] == [1e-3, 1e-3, 1e-3 * SCALAR_SPEED]
    assert sum(len(group["params"]) for group in groups) == len(adapters.parameters())
    names = {
        id(p): name.split(".")[-1] for m in adapters.modules.values() for name, p in m.named_parameters()
    }
    assert [{names[id(p)] for p in group["params"]} for group in groups] == [
        {"weight"},
        {"bias"},
        {"p_logit", "log_mu"} | ({"share"} if join == "blend" else set()),
    ]
    p = adapters.modules["layer.0.attention"].scheme.p_logit
    before = p.detach().clone()
    for parameter in adapters.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW(groups).step()
    assert torch.equal(p, before)


@every_join
def test_dropout(join, make_decoder, words, image_states):
    """While training, a new adapter draws what the model draws; the graph carries the weights after dropout."""
    noisy = dict(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3)
    base, model = make_decoder(**noisy).train(), make_decoder(**noisy).train()
    adapters = attach(model, AdapterConfig("pgnn", join=join))
    graphs = []
    for module in adapters.modules.values():
        if hasattr(module, "scheme"):
            module.scheme.register_forward_pre_hook(lambda scheme, args: graphs.append(args[0]))
    ids, states = words(), image_states()
    torch.manual_seed(5)
    want = run(base, ids, states)
    torch.manual_seed(5)
    got = run(model, ids, states)
    if join == "blend":
        assert torch.equal(got, want)
    assert len(graphs) == 4
    sums = torch.cat([g.weight.sum(-1).flatten() for g in graphs])
    assert not torch.allclose(sums, torch.ones_like(sums), atol=0.05)  # dropped, and the rest scaled by 1/0.7
    assert (graphs[1].weight == 0).any()


@pytest.mark.parametrize("positions", [("self", "cross", "ffn"), ("cross",)], ids="+".join)
def test_gradient_checkpointing(positions, make_captioner, words):
    """Layers that run again in the backward pass see the masks of their own batch."""
    pixels, ids, other = torch.randn(2, 3, 8, 8), words(), words(seed=1)
    mask, ones = torch.ones_like(ids), torch.ones_like(ids)
    mask[0, 3:] = 0

    def grads(checkpointing):
        model = make_captioner()
        adapters = put(model, "pgnn", join="replace", positions=positions)
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        loss = model(pixel_values=pixels, input_ids=ids, attention_mask=mask, labels=ids).loss
        loss = loss + model(pixel_values=pixels, input_ids=other, attention_mask=ones, labels=other).loss
        loss.backward()
        return [p.grad for p in adapters.parameters()]

    for got, want in zip(grads(True), grads(False), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


# ---- precision, copies, other weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_gnn
def test_half_precision(gnn, args, dtype, make_decoder, words, image_states):
    model = make_decoder()
    adapters = put(model, gnn, args, join="replace").parameters()
    model.to(dtype)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[0, :4] = 0  # left padding: fully masked rows
    ids, states = words(), image_states().to(dtype)
    ids[1] = 7  # the same token everywhere: nodes that are nearly equal
    logits = model(ids, attention_mask=mask, encoder_hidden_states=states).logits
    assert logits.dtype == dtype and logits.isfinite().all()
    nn.functional.cross_entropy(logits[mask.bool()].float(), ids[mask.bool()]).backward()
    assert all(p.grad.isfinite().all() for p in adapters)


def test_autocast_does_not_leave_traces(make_decoder, words, image_states):
    """The same numbers after a forward pass under autocast, in evaluation or in inference mode as before."""
    model = make_decoder()
    adapters = put(model, "pgnn", join="replace")
    clean = make_decoder()
    put(clean, "pgnn", join="replace")
    ids, states = words(), image_states()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        rough = model(ids, encoder_hidden_states=states).logits
    want = run(clean, ids, states)
    assert torch.equal(run(model, ids, states), want)
    assert torch.nn.functional.cosine_similarity(rough.float().flatten(), want.flatten(), dim=0) > 0.95
    model(ids, encoder_hidden_states=states).logits.sum().backward()
    assert all(p.grad is not None for p in adapters.parameters())


def test_new_base_weights_are_noticed(make_decoder, words, image_states):
    """The metric is kept between calls, but never older than W_o."""
    model, other = make_decoder(0), make_decoder(1)
    put(model, "pgnn", join="replace"), put(other, "pgnn", join="replace")
    ids, states = words(), image_states()
    run(model, ids, states)
    model.load_state_dict(other.state_dict())
    assert torch.equal(run(model, ids, states), run(other, ids, states))
    run(model.double(), ids, states.double())
    close(run(model.float(), ids, states), run(other, ids, states), 1e-6)


def test_copies_stand_on_their_own(make_decoder, words, image_states):
    """deepcopy and torch.save give adapted models that can be changed and taken apart without touching the first."""
    model = make_decoder()
    base = run(model, words(), image_states())
    put(model, "pgnn", join="replace")
    want = run(model, words(), image_states())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert torch.equal(run(twin, words(), image_states()), want)
        own = twin.bert.encoder.layer[0].attention.self.attngraph_site.owner
        assert {id(p) for p in own.parameters()} == {id(p) for p in twin.parameters() if p.requires_grad}
        with own.disabled():
            assert torch.equal(run(twin, words(), image_states()), base)
        own.detach()
        assert torch.equal(run(twin, words(), image_states()), base)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[0, 4:] = 0
    assert not torch.equal(run(model, words(), image_states(), mask), want)  # its hooks are still there
    assert torch.equal(run(model, words(), image_states()), want)


# ---- switching off ------------------------------------------------------------------------------------------------


@four_gnns
@every_join
def test_switching_off_gives_the_base_back_exactly(gnn, join, make_decoder, words, image_states):
    model = make_decoder()
    kinds = [type(m) for m in model.modules()]
    state = copy.deepcopy(model.state_dict())
    ids, states = words(), image_states()
    more = dict(encoder_hidden_states=states, max_new_tokens=5, num_beams=2, do_sample=False)
    before, text = run(model, ids, states), model.generate(ids, **more)
    adapters = put(model, gnn, join=join)
    assert not torch.allclose(run(model, ids, states), before, atol=0.05)
    with adapters.disabled():
        assert torch.equal(run(model, ids, states), before) and torch.equal(model.generate(ids, **more), text)
        with adapters.disabled():
            pass
        assert torch.equal(run(model, ids, states), before)
    assert not torch.allclose(run(model, ids, states), before, atol=0.05)
    for _ in range(2):  # a second time changes nothing
        adapters.detach()
        assert torch.equal(run(model, ids, states), before)
    assert [type(m) for m in model.modules()] == kinds
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert model.state_dict().keys() == state.keys() and all(
        torch.equal(v, state[k]) for k, v in model.state_dict().items()
    )
    put(model, gnn, join=join)  # and there is room for new ones


@pytest.mark.parametrize("positions", [("self",), ("cross",), ("ffn",)], ids="".join)
def test_adapters_go_in_once(positions, make_decoder):
    model = make_decoder()
    put(model, positions=positions)
    with pytest.raises(UserError, match="has graph adapters already"):
        put(model, positions=positions)


def test_a_model_without_a_blip_decoder_is_refused():
    with pytest.raises(UserError, match="Linear holds 0 BlipTextModel"):
        attach(nn.Linear(2, 2), AdapterConfig())


def test_attentions_are_still_recorded(make_decoder, words, image_states):
    model = make_decoder()
    want = model(words(), encoder_hidden_states=image_states(), output_attentions=True)
    attach(model, AdapterConfig())
    got = model(words(), encoder_hidden_states=image_states(), output_attentions=True)
    for name in ("attentions", "cross_attentions"):
        assert all(torch.equal(a, b) for a, b in zip(got[name], want[name], strict=True))


def test_a_decoder_run_without_a_causal_mask_is_not_causal(make_decoder, words, image_states):
    """BLIP takes that from the call. Bidirectionally, the value degrees sum over all queries."""
    model = make_decoder()
    adapters = put(model, "appnp", join="replace", positions=("self",))
    seen = []
    for module in adapters.modules.values():
        module.scheme.register_forward_pre_hook(lambda scheme, args: seen.append(args[0]))
    ids, states = words(), image_states()
    with torch.no_grad():
        model.bert(ids, encoder_hidden_states=states, use_cache=False)
        assert [graph.causal for graph in seen] == [False, False]
        assert (seen[0].weight[:, :, 0] > 0).all()
        run(model, ids, states)
    assert [graph.causal for graph in seen] == [False, False, True, True]


def test_hooks_on_forward_methods_are_refused(make_decoder):
    """They would keep calling the model's own forward: adapters would silently not run."""

    def hook(model):  # as accelerate's add_hook_to_module does
        for module in model.modules():
            module.forward = functools.partial(type(module).forward, module)
        return model

    hooked = hook(make_decoder())
    with pytest.raises(UserError, match="attach them before"):
        attach(hooked, AdapterConfig())
    assert not any(hasattr(module, "attngraph_site") for module in hooked.modules())
    model = make_decoder()
    adapters = attach(model, AdapterConfig())
    hook(model)
    with pytest.raises(UserError, match="before detach"):
        adapters.detach()


def test_a_static_cache_is_refused(make_decoder, words, image_states):
    from transformers import StaticCache

    model = make_decoder()
    put(model)
    cache = EncoderDecoderCache(StaticCache(config=model.config, max_cache_len=12), DynamicCache())
    with pytest.raises(UserError, match="use a DynamicCache"), torch.no_grad():
        model(words(), encoder_hidden_states=image_states(), past_key_values=cache, use_cache=True)


@every_join
def test_p_learns_in_a_bfloat16_model(join, make_decoder, words, image_states):
    """Near p = 1.25 a step of bfloat16 is larger than a step of the optimiser."""
    model = make_decoder().bfloat16().train()
    adapters = attach(model, AdapterConfig("pgnn", {"p": 1.25}, join=join, reduction=4))
    with torch.no_grad():
        for name, tensor in adapters.state_dict().items():
            if name.endswith("share"):
                tensor.fill_(0.5)
    scalars = [p for p in adapters.parameters() if p.dim() == 0]
    assert len(scalars) == (8 if join == "blend" else 4) and all(p.dtype == torch.float32 for p in scalars)
    before = [p.detach().clone() for p in scalars]
    optimizer = torch.optim.AdamW(adapters.optimizer_groups(1e-5, 0.0))
    for step in range(5):
        optimizer.zero_grad()
        ids = words(seed=step)
        model(ids, encoder_hidden_states=image_states().bfloat16(), labels=ids).loss.backward()
        optimizer.step()
    if join != "gated":  # there W_up is still nearly zero
        assert all(not torch.equal(p, old) for p, old in zip(scalars, before))


def test_a_model_made_in_inference_mode(make_decoder, words, image_states):
    with torch.inference_mode():
        model = make_decoder()
        put(model)
        close(
            model(words(), encoder_hidden_states=image_states(), use_cache=False).logits,
            _reference(make_decoder, words, image_states),
        )


def _reference(make_decoder, words, image_states):
    model = make_decoder()
    put(model)
    return run(model, words(), image_states())
