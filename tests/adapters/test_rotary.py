"""Adapters in models that rotate their queries: messages and distances take them as they are projected."""

import warnings
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model

from adapters import GraphAdapterConfig
from adapters.peft.layer import OutputLayer
from attngraph import AttentionGraph, AttentionScores
from attngraph.reading.instrument import instrument
from tests.adapters.cases import every_scheme
from tests.adapters.peft_models import FAMILIES
from tests.attngraph.reading.test_projection import MODELS, shifted
from tests.pairwise import pairwise_params

ROTARY = ["llama", "llava", "qwen2-vl", "mllama"]
every_family = pytest.mark.parametrize("family", ROTARY)


def put(family: str, gnn: str = "pgnn", **settings):
    torch.manual_seed(0)
    return get_peft_model(
        FAMILIES[family].make(),
        GraphAdapterConfig(
            gnn=gnn, reduction=4, positions=("self", "cross"), init_weights=False, join="replace", **settings
        ),
    )


def run(model, batch, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model(**batch, **more).logits


def at(batch: dict, by: int) -> dict:
    """The batch with all positions moved."""
    n = batch["input_ids"].shape[1]
    positions = torch.arange(by, n + by)[None].expand(2, -1)
    return batch | dict(
        position_ids=positions[None].expand(3, -1, -1) if "mm_token_type_ids" in batch else positions
    )


WAYS = [
    ("pgnn", {}),
    ("pgnn", dict(backend="tiled")),
    ("pgnn", dict(backend="sparse")),
    ("appnp", {}),
    ("gcnii", dict(backend="tiled")),
]


@pytest.mark.parametrize(
    "family, training, way", pairwise_params(family=ROTARY, training=[False, True], way=WAYS)
)
def test_absolute_positions_do_not_matter(family, training, way):
    gnn, settings = way
    model, batch = put(family, gnn, **settings).train(training), FAMILIES[family].batch()
    outputs, grads = [], []
    for by in (0, 40):
        model.zero_grad()
        outputs.append(run(model, at(batch, by), use_cache=False))
        outputs[-1].square().mean().backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    one, other = (x.detach() for x in outputs)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(one.abs().max()))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3 * float(a.abs().max()) + 1e-7)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in FAMILIES and "gated" not in name])
def test_absolute_positions_do_not_matter_in_other_models(name):
    torch.manual_seed(0)
    model = get_peft_model(
        MODELS[name].model(),
        GraphAdapterConfig(gnn="pgnn", reduction=4, positions="self", init_weights=False, join="replace"),
    ).eval()
    with torch.no_grad():
        one, other = (model(**shifted(MODELS[name], model, by), use_cache=False)[0] for by in (0, 40))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(one.abs().max()))


@every_family
@pytest.mark.parametrize("backend", ["dense", "tiled", "sparse"])
def test_training_and_evaluation_agree(family, backend):
    """The ways from scores and from weights, with a cache and without."""
    model, batch = put(family, backend=backend), FAMILIES[family].batch()
    with torch.no_grad():
        outputs = [
            run(model.train(training), batch, use_cache=cache)
            for training in (False, True)
            for cache in (False, True)
        ]
    for got in outputs[1:]:
        torch.testing.assert_close(got, outputs[0], rtol=1e-4, atol=1e-4 * float(outputs[0].abs().max()))


@every_family
def test_the_aggregate_is_that_of_unrotated_features(family):
    """And not of what the model compares."""
    model, batch = put(family).eval(), FAMILIES[family].batch()
    handle = instrument(model.get_base_model())
    calls = []
    for site in handle.sites.values():
        site.listeners.append(calls.append)
    with torch.no_grad():
        run(model, batch, use_cache=False)
        layers = {
            m.name: m.gnn_adapter["default"]
            for m in model.modules()
            if isinstance(m, OutputLayer) and hasattr(m.gnn_adapter["default"], "scheme")
        }
        seen = 0
        for call in calls:
            if call.site.output_name not in layers or call.feature is call.query:
                continue
            scheme = layers[call.site.output_name].scheme
            graph = call.graph(metric=call.site.metric(call.query))
            assert torch.equal(graph.query, call.feature)
            want = layers[call.site.output_name].aggregate(call)
            got = scheme(graph).transpose(1, 2).flatten(2)
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
            turned = scheme(replace(graph, query=call.query)).transpose(1, 2).flatten(2)
            assert (turned - want).abs().max() > 1e-3
            seen += 1
    handle.remove()
    assert seen >= 2


@pytest.mark.parametrize("first", ["lora", "graph"])
@pytest.mark.parametrize("backend", ["dense", "tiled"])
def test_lora_on_the_projection(first, backend):
    """Its output is the projection, whichever came first; gradients reach it through the features alone."""
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    graph = GraphAdapterConfig(gnn="pgnn", reduction=4, init_weights=False, backend=backend)
    model, batch = FAMILIES["llama"].make(), FAMILIES["llama"].batch()
    if first == "graph":
        model = get_peft_model(model, graph)
        run(model, batch)
        inject_adapter_in_model(lora, model.get_base_model(), "lora")
    else:
        inject_adapter_in_model(lora, model, "lora")
        model = get_peft_model(model, graph)
    base = model.get_base_model()
    handle = instrument(base)
    calls, projected = [], []
    name = "model.layers.0.self_attn"
    handle.sites[name].listeners.append(calls.append)
    layer = base.get_submodule(name).q_proj
    layer.register_forward_hook(lambda module, args, output: projected.append(output))
    parameters = [p for n, p in layer.named_parameters() if "lora_" in n]
    for p in parameters:
        p.requires_grad_()
    run(model.train(), batch, use_cache=False)
    call = calls[0]
    assert len(parameters) == 2 and not call.rotated and call.feature is not call.query
    assert torch.equal(call.feature.transpose(1, 2).flatten(2), projected[0])
    assert not torch.allclose(
        projected[0],
        layer.base_layer(base.model.layers[0].input_layernorm(base.model.embed_tokens(batch["input_ids"]))),
        atol=0.1,
    )
    scores = call.scores()
    apart = replace(scores, query=scores.query.detach(), key=scores.key.detach(), value=scores.value.detach())
    layers = [m for m in model.modules() if isinstance(m, OutputLayer)]
    out = layers[0].gnn_adapter["default"].scheme.attend(apart, backend, context=False)[0]
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(out.square().sum(), parameters))
    handle.remove()


# ---- from scores whose nodes have features of their own -----------------------------------------------


@pytest.fixture
def tiny_tiles(monkeypatch):
    monkeypatch.setattr("attngraph.backends.tiled.TILE", 6)
    monkeypatch.setattr("adapters.kernels.tiled.ROWS", 2)
    monkeypatch.setattr("adapters.kernels.tiled.TILE", 4)
    monkeypatch.setattr("adapters.kernels.fused.BLOCK", 12)


@pytest.mark.usefixtures("tiny_tiles")
@every_scheme(causal=[False, True])
def test_every_backend_equals_the_formula_as_loops_in_values_and_gradients(case, causal):
    """The loops' gradients are differences, with respect to query, key, value and feature."""
    draw = torch.Generator().manual_seed(4)
    h, n, m, d = 2, 3, 3, 2
    parts = {
        x: torch.randn(1, h, k, d, generator=draw, dtype=torch.float64)
        for x, k in (("query", n), ("key", m), ("value", m), ("feature", n))
    }
    output = torch.randn(h, d, 5, generator=draw, dtype=torch.float64)
    metric, probe = output @ output.mT, torch.randn(1, h, n, 5, generator=draw, dtype=torch.float64)
    visible = torch.ones(n, m, dtype=torch.bool).tril() if causal else None
    scheme = case.make(torch.float64)

    def loops(query, key, value, feature):
        scores = query @ key.mT / d**0.5
        weight = (scores if visible is None else scores.masked_fill(~visible, -torch.inf)).softmax(-1)
        graph = AttentionGraph(
            feature, value, weight, None, None if visible is None else visible[None], causal, metric
        )
        return case.reference(scheme, graph, output)

    def loss(name, place, by):
        moved = parts[name].clone()
        moved[place] += by
        return float((loops(**parts | {name: moved}) * probe).sum())

    want = loops(**parts)
    slopes = {}
    for name, x in parts.items():
        slopes[name] = torch.zeros_like(x)
        for place in torch.cartesian_prod(*map(torch.arange, x.shape[1:])):
            place = (0, *place.tolist())
            slopes[name][place] = (loss(name, place, 1e-5) - loss(name, place, -1e-5)) / 2e-5
    leaves = {name: x.clone().requires_grad_() for name, x in parts.items()}
    scores = AttentionScores(**leaves, causal=causal, triangular=causal, metric=metric)
    ways = (scheme, lambda scores, backend: scheme.attend(scores, backend)[0])
    for backend in ("dense", "sparse", "tiled"):
        for way in ways:
            got = way(scores, backend) @ output
            torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-9)
            grads = torch.autograd.grad((got * probe).sum(), list(leaves.values()), allow_unused=True)
            for (name, slope), grad in zip(slopes.items(), grads, strict=True):
                grad = torch.zeros_like(slope) if grad is None else grad
                torch.testing.assert_close(
                    grad, slope, rtol=1e-5, atol=1e-6 * max(1, float(slope.abs().max())), msg=name
                )
