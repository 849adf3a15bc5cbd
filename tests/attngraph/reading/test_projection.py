"""Features of queries that a model rotates: the projection before rotary embedding, whatever module computes
it."""

import pytest
import torch
import transformers as hf
from torch import Tensor

from attngraph import AttentionGraph, capture
from attngraph.reading.instrument import instrument
from attngraph.reading.projection import unrotated
from tests.attngraph.reading.running import rows, run
from tests.attngraph.reading.zoo import FAMILIES, GQA, TEXT, Family, far_from_zero, words

WIDE = GQA | dict(head_dim=8)  # 4 heads of 8, 2 of keys and values, on 16 features
BERT = {name: x for name, x in TEXT.items() if name != "sep_token_id"} | dict(cls_token_id=1, sep_token_id=2)


def text_model(kind: str, **settings) -> Family:
    def make():
        model = getattr(hf, f"{kind}ForCausalLM", None) or getattr(hf, f"{kind}Model")
        config = {name: x for name, x in (WIDE | settings).items() if name != "model_type"}
        return model(getattr(hf, f"{kind}Config")(**config))

    return Family(make, lambda left=False: dict(input_ids=words()), {})


YARN = dict(rope_type="yarn", factor=4.0, rope_theta=1e4, original_max_position_embeddings=16)
PARTLY = dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5)
ZOO = ("llama", "llava", "qwen2-vl", "mllama", "instructblip", "paligemma", "gemma3")
MODELS = {name: FAMILIES[name] for name in ZOO} | {
    "mistral": text_model("Mistral"),
    "qwen3, a norm": text_model("Qwen3"),
    "gemma3, a norm": text_model("Gemma3Text"),
    "olmo2, a norm of all heads": text_model("Olmo2"),
    "phi3, one projection": text_model("Phi3"),
    "glm, partial": text_model("Glm", partial_rotary_factor=0.5),
    "gpt-neox, one projection by heads": text_model("GPTNeoX", **TEXT, rope_parameters=PARTLY),
    "modernbert, one projection": text_model("ModernBert", **BERT),
    "llama, scaled": text_model("Llama", rope_parameters=YARN),
    "qwen3-next, gated": text_model("Qwen3Next", layer_types=["full_attention"] * 2),
}
"""Models that rotate their queries."""
WRITTEN_OUT = ("falcon", "falcon, groups", "roformer", "whisper")  # the last one multiplies its queries
CHANGED = MODELS | {name: FAMILIES[name] for name in WRITTEN_OUT}


def rms(x: Tensor, norm: torch.nn.Module) -> Tensor:
    weight = norm.weight + 1 if type(norm).__name__ in ("Gemma3RMSNorm", "Qwen3NextRMSNorm") else norm.weight
    epsilon = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * weight


def by_hand(module: torch.nn.Module, states: Tensor, h: int, d: int) -> Tensor:
    """``(b, h, n, d)`` from a module's weights and what it was given."""
    places = ("q_proj", "qkv", "qkv_proj", "Wqkv", "query_key_value", "query")
    layer = next(getattr(module, name) for name in places if hasattr(module, name))
    kind, weight, bias = type(module).__name__, layer.weight, layer.bias
    if kind == "GPTNeoXAttention":
        weight, bias = (x.unflatten(0, (h, 3, d))[:, 0].flatten(0, 1) for x in (weight, bias))
    elif kind == "Qwen3NextAttention":
        weight = weight.unflatten(0, (h, 2, d))[:, 0].flatten(0, 1)
    elif "Falcon" in kind and module.new_decoder_architecture:
        weight = weight.unflatten(0, (module.num_kv_heads, -1, d))[:, :-2].flatten(0, 2)
    out = states @ weight[: h * d].T + (0 if bias is None else bias[: h * d])
    norm = getattr(module, "q_norm", None)
    if norm is not None and norm.weight.numel() == h * d:
        out = rms(out, norm)
    out = out.unflatten(-1, (h, d))
    if norm is not None and norm.weight.numel() == d:
        out = rms(out, norm)
    return out.transpose(-2, -3)


def read(model, inputs):
    """``{layer: [(call, what the module was given)]}``."""
    handle, found, given = instrument(model), {}, {}
    hooks = []
    for name, site in handle.sites.items():

        def before(module, args, kwargs, name=name):
            given[name] = args[0] if args else kwargs["hidden_states"]

        def listen(call, name=name):
            found.setdefault(name, []).append((call, given[name]))

        hooks.append(site.module.register_forward_pre_hook(before, with_kwargs=True))
        site.listeners.append(listen)
    with torch.no_grad():
        model(**inputs)
        for calls in found.values():
            for call, _ in calls:
                assert call.feature.shape == call.query.shape
    for hook in hooks:
        hook.remove()
    handle.remove()
    return found


HALF = ("llama", "qwen2-vl", "mllama", "gpt-neox, one projection by heads", "falcon, groups")


@pytest.mark.parametrize(
    "name, dtype",
    [*((name, torch.float32) for name in CHANGED), *((name, torch.bfloat16) for name in HALF)],
)
def test_the_feature_is_the_projection_of_the_modules_input(name, dtype):
    family = CHANGED[name]
    model = family.model().to(dtype)
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in family.inputs().items()}
    changed = 0
    for calls in read(model, inputs).values():
        start = 0
        for call, states in calls:
            _, h, n, d = call.query.shape
            want = by_hand(call.site.module, states, h, d).detach()
            if want.dim() == 3:  # Qwen2-VL's images lie one after the other
                want = want[None, :, start : start + n]
                start += n
            tolerance = 2e-6 if dtype == torch.float32 else 3e-2
            torch.testing.assert_close(
                call.feature, want, rtol=tolerance, atol=tolerance * float(want.abs().max())
            )
            assert not call.rotated and call.feature.dtype == call.query.dtype
            changed += not torch.allclose(call.feature, call.query, atol=0.1)
        assert start in (0, len(calls[0][1]))
    assert changed


@pytest.mark.parametrize("name", ["blip2", "whisper"])
def test_queries_that_are_multiplied_before_attention(name):
    """Features are projections; scores, with the factor that attention is called with, give the same M."""
    model = FAMILIES[name].model()
    handle, seen = instrument(model), []

    def listen(call):
        kind = type(call.site.module).__name__
        if kind in ("OPTAttention", "WhisperAttention"):
            scores = call.scores()
            assert torch.equal(call.feature * call.site.module.scaling, call.query)
            assert scores is not None and scores.node is call.feature
            valid = rows(call.graph())
            torch.testing.assert_close(scores.weight()[valid], call.weight[valid], rtol=1e-5, atol=1e-6)
            seen.append(kind)

    for site in handle.sites.values():
        site.listeners.append(listen)
    run(model, FAMILIES[name].inputs(), use_cache=False)
    handle.remove()
    assert len(seen) == (2 if name == "blip2" else 6)


def shifted(family, model, by: int) -> dict:
    inputs = family.inputs()
    inputs.pop("attention_mask", None)
    n = inputs["input_ids"].shape[1]
    positions = torch.arange(by, n + by)[None].expand(2, -1)
    return inputs | dict(
        position_ids=positions[None].expand(3, -1, -1) if "mm_token_type_ids" in inputs else positions
    )


@pytest.mark.parametrize("name", ["llama", "qwen2-vl", "gemma3", "mllama"])
def test_positions_do_not_reach_the_features(name):
    """All positions moved by 40: scores depend on differences only, and so do the graphs."""
    model = MODELS[name].model()
    here, there = (read(model, shifted(MODELS[name], model, by)) for by in (0, 40))
    moved = 0.0
    for layer, calls in here.items():
        for (one, _), (other, _) in zip(calls, there[layer], strict=True):
            with torch.no_grad():
                a, b = one.graph(), other.graph()
            assert not a.rotated
            torch.testing.assert_close(a.weight, b.weight, rtol=0, atol=1e-5)
            torch.testing.assert_close(
                a.query, b.query, rtol=0, atol=1e-5 * max(1, float(a.query.abs().max()))
            )
            moved = max(moved, float((one.query - other.query).abs().max()))
    assert moved > 0.5  # what the model compares does depend on them


def both(family):
    return family.model(), family.inputs()


def test_what_can_not_be_read_before_is_marked():
    """A norm after the rotation puts out rotated queries of the same length."""
    for kind in ("HunYuanDenseV1", "NanoChat"):
        model, inputs = both(text_model(kind))
        for calls in read(model, inputs).values():
            assert all(call.rotated and call.feature is call.query for call, _ in calls)
    graph = next(iter(capture(model, inputs).values()))
    assert graph.rotated and "rotated queries" in repr(graph)
    assert graph.metric.shape == (4, 8, 8)  # though the heads together are wider than the model
    graph, plain = graph[0, 0], next(iter(capture(*both(FAMILIES["llama"])).values()))[0, 0]
    for way in (graph.to_data(), graph.to_hetero()):
        assert AttentionGraph.from_pyg(way).rotated
    assert AttentionGraph.from_networkx(graph.to_networkx()).rotated
    assert not plain.rotated and "rotated" not in repr(plain)
    assert not AttentionGraph.from_pyg(plain.to_data()).rotated


def test_gradients_flow_through_the_features():
    """To the projection's weight, as by hand; the same when layers run again in the backward pass."""
    grads = []
    for again in (False, True):
        model = FAMILIES["llama"].model().train()
        if again:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        handle, total, given = instrument(model), [], []
        module = model.model.layers[0].self_attn
        handle.sites["model.layers.0.self_attn"].listeners.append(
            lambda call, total=total: total.append(call.feature.sin().sum())
        )
        module.register_forward_pre_hook(
            lambda m, args, kwargs, given=given: given.append(kwargs["hidden_states"]), with_kwargs=True
        )
        model(words(), use_cache=False)
        total[0].backward()
        grads.append(module.q_proj.weight.grad)
        handle.remove()
    module.q_proj.weight.grad = None
    by_hand(module, given[0].detach(), 4, 4).sin().sum().backward()
    for grad in grads:
        torch.testing.assert_close(grad, module.q_proj.weight.grad)


def turn(x: Tensor, seed: int = 0) -> Tensor:
    """Every vector turned in its own way."""
    draw = torch.Generator().manual_seed(seed)
    turns = torch.linalg.qr(torch.randn(*x.shape, x.shape[-1], generator=draw, dtype=x.dtype))[0]
    return (x[..., None, :] @ turns)[..., 0, :]


def test_what_does_not_fit_is_not_taken():
    feature = torch.randn(1, 2, 5, 4, dtype=torch.float64)
    query, output = turn(feature), feature.transpose(1, 2).flatten(2)
    others = output[:, :4], output[..., :3], torch.ones(3), output * float("nan")
    for wrong in ((output + 1e-3,), others, ()):
        for rotary in (True, False):
            assert unrotated(query, wrong, 0, None, (), rotary) == (None, rotary)
    assert torch.equal(unrotated(query, (output, torch.randn_like(output)), 0, None, (), True)[0], feature)
    later = turn(feature, 1).transpose(1, 2)
    found, _ = unrotated(query, (output, later), 0, None, (), True)
    assert torch.equal(found, later.transpose(1, 2))  # the last that fits
    assert unrotated(query, (query,), 0, None, (), True) == (None, False)  # not rotated in between


@pytest.mark.parametrize("n", [2, 4, 7])
def test_vectors_of_one_length_are_told_apart(n):
    """A new query norm makes all vectors equally long, so lengths don't tell which layout is right, in half
    precision."""
    b, h, d = 2, 4, 16
    angle = torch.arange(n)[:, None] * 10000.0 ** (-torch.arange(d // 2) / (d // 2))
    cos, sin = (f(angle).repeat(1, 2) for f in (torch.cos, torch.sin))
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        x = torch.nn.functional.normalize(torch.randn(b, h, n, d, generator=draw), dim=-1).bfloat16()
        turned = torch.cat([-x[..., d // 2 :], x[..., : d // 2]], -1)
        query = (x * cos + turned * sin).bfloat16()
        for output in (x, x.transpose(1, 2), x.transpose(1, 2).flatten(2)):
            found, rotated = unrotated(query, (output.clone(),), 0, None, (), True)
            assert not rotated and torch.equal(found, x), (seed, output.shape)


def test_rotations_that_change_lengths_are_marked():
    """V-JEPA 2 rotates by a function of its own, which keeps lengths in its smallest heads only; nothing else
    about the module says so."""
    sizes = dict(hidden_size=32, mlp_ratio=2, num_attention_heads=2, num_hidden_layers=1)
    sizes |= dict(pred_hidden_size=12, pred_num_attention_heads=2, pred_num_hidden_layers=1)
    config = hf.VJEPA2Config(crop_size=8, patch_size=4, frames_per_clip=4, **sizes)
    model = far_from_zero(hf.VJEPA2Model(config), 0)
    graphs = capture(model, {"pixel_values_videos": torch.randn(1, 4, 3, 8, 8)})
    names = {name.partition(".")[0]: graph.rotated for name, graph in graphs.items()}
    assert names == {"encoder": True, "predictor": False}


def test_features_do_not_depend_on_how_many_words_follow():
    """Llama 4 norms each head's queries after rotation, which leaves the first word as it is: nothing that
    was recorded fits then, for one word as for several."""
    kinds = ["chunked_attention", "full_attention"]
    sizes = {**GQA, "model_type": "llama4_text", "intermediate_size_mlp": 24, "head_dim": 6}
    config = hf.Llama4TextConfig(
        **sizes, attention_chunk_size=3, num_local_experts=2, no_rope_layers=[1, 0], layer_types=kinds
    )
    model, ids = far_from_zero(hf.Llama4ForCausalLM(config), 0), words()
    one, several = (
        capture(model, {"input_ids": ids[:, :n], "use_cache": False})["model.layers.0.self_attn"]
        for n in (1, 7)
    )
    assert one.rotated and several.rotated
    torch.testing.assert_close(one.query, several.query[:, :, :1])
