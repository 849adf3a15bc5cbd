"""Adapters in models that rotate their queries: messages and distances take them as they are projected."""

import warnings
from dataclasses import replace

import pytest
import torch

from adapters.peft.layer import OutputLayer
from attngraph import AttentionGraph, AttentionScores
from attngraph.reading.instrument import instrument
from tests.adapters.cases import typical
from tests.adapters.peft import helpers
from tests.adapters.peft_models import FAMILIES
from tests.pairwise import pairwise_params


def put(family: str, gnn: str = "pgnn", **settings):
    return helpers.put(family, gnn, positions=("self", "cross"), join="replace", **settings)


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


WAYS = [("pgnn", {}), ("pgnn", dict(backend="tiled")), ("appnp", dict(backend="sparse"))]


@pytest.mark.parametrize(
    "family, training, way",
    pairwise_params(family=["llama", "qwen2-vl", "mllama"], training=[False, True], way=WAYS),
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
    with torch.no_grad():  # the ways from scores and from weights, with a cache and without
        got = run(model.train(not training), at(batch, 0), use_cache=True)
    helpers.close(got, one, 1e-4)


def test_the_aggregate_is_that_of_unrotated_features():
    """And not of what the model compares."""
    model, batch = put("llama").eval(), FAMILIES["llama"].batch()
    handle, calls = instrument(model.get_base_model()), []
    for site in handle.sites.values():
        site.listeners.append(calls.append)
    with torch.no_grad():
        run(model, batch, use_cache=False)
        layers = {m.name: m.gnn_adapter["default"] for m in model.modules() if isinstance(m, OutputLayer)}
        for call in calls:
            scheme = layers[call.site.output_name].scheme
            graph = call.graph(metric=call.site.metric(call.query))
            assert torch.equal(graph.query, call.feature)
            want = layers[call.site.output_name].aggregate(call)
            got = scheme(graph).transpose(1, 2).flatten(2)
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
            turned = scheme(replace(graph, query=call.query)).transpose(1, 2).flatten(2)
            assert (turned - want).abs().max() > 1e-3
    handle.remove()
    assert len(calls) == 2


@typical(causal=[False, True])
def test_every_backend_equals_the_formula_as_loops_in_values_and_gradients(case, causal, monkeypatch):
    """From scores whose query nodes have other features. The loops' gradients are differences, with respect
    to query, key, value and feature."""
    for name, size in (("tiled.ROWS", 2), ("tiled.TILE", 4), ("fused.BLOCK", 12)):
        monkeypatch.setattr(f"adapters.kernels.{name}", size)
    monkeypatch.setattr("attngraph.backends.tiled.TILE", 6)
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

    want, slopes = loops(**parts), {}
    for name, x in parts.items():
        slopes[name] = torch.zeros_like(x)
        for place in torch.cartesian_prod(*map(torch.arange, x.shape[1:])):
            place = (0, *place.tolist())
            slopes[name][place] = (loss(name, place, 1e-5) - loss(name, place, -1e-5)) / 2e-5
    leaves = {name: x.clone().requires_grad_() for name, x in parts.items()}
    scores = AttentionScores(**leaves, causal=causal, triangular=causal, metric=metric)
    for backend in ("dense", "sparse", "tiled"):
        for aggregated in (scheme(scores, backend), scheme.attend(scores, backend)[0]):
            got = aggregated @ output
            torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-9)
            grads = torch.autograd.grad((got * probe).sum(), list(leaves.values()), allow_unused=True)
            for (name, slope), grad in zip(slopes.items(), grads, strict=True):
                grad = torch.zeros_like(slope) if grad is None else grad
                torch.testing.assert_close(
                    grad, slope, rtol=1e-5, atol=1e-6 * max(1, float(slope.abs().max())), msg=name
                )
