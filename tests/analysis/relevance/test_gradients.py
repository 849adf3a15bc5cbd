"""Gradients of a model's score against finite differences, and the operators on a real model."""

import pytest
import torch
from peft import get_peft_model

from attngraph.adapters import GraphAdapterConfig
from attngraph.analysis.relevance import capture_with_gradients, raw, relevance, rollout, route
from attngraph.reading.instrument import instrument

CROSS = "text_decoder.bert.encoder.layer.{}.crossattention.self"
SELF = "text_decoder.bert.encoder.layer.{}.attention.self"
VISION = "vision_model.encoder.layers.0.self_attn"
POSITION = 3


def inputs(words, b=2, n=5, dtype=torch.float64) -> dict:
    pixels = torch.randn(b, 3, 8, 8, generator=torch.Generator().manual_seed(5)).to(dtype)
    ids = words(b, n)
    return {"pixel_values": pixels, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


def score(output) -> torch.Tensor:
    return output.logits[:, POSITION, 7]


def moved_score(model, batch: dict, name: str, step: torch.Tensor) -> torch.Tensor:
    """The score when the weights of a layer are moved by a step."""

    def move(call):
        call.hold_weights()
        new = call.weight + step
        call.__dict__["_eager"] = (new @ call.value).transpose(1, 2), new

    handle = instrument(model)
    handle.sites[name].listeners.insert(0, move)
    try:
        with torch.no_grad():
            return score(model(**batch))
    finally:
        handle.sites[name].listeners.remove(move)
        handle.remove()


@pytest.mark.parametrize("adapted", [False, True])
def test_gradients_are_those_of_finite_differences(make_captioner, words, adapted):
    """Weights of one layer are moved, before anything reads them, and the score follows."""
    model = make_captioner()
    if adapted:
        config = GraphAdapterConfig(gnn="pgnn", join="replace", reduction=2, positions=("self", "cross"))
        get_peft_model(model, config)
    model.double()
    batch = inputs(words)
    graphs, gradients = capture_with_gradients(model, batch, score)
    assert list(graphs) == list(gradients) and len(graphs) == 5
    for seed, name in enumerate([VISION, SELF.format(0), CROSS.format(0), SELF.format(1), CROSS.format(1)]):
        weight = graphs[name].weight
        draw = torch.Generator().manual_seed(seed)
        step = torch.randn(weight.shape, generator=draw, dtype=torch.float64) * (weight > 0)
        after, before = (moved_score(model, batch, name, size * step) for size in (1e-5, -1e-5))
        slope = (after - before) / 2e-5
        directional = (gradients[name] * step).sum((1, 2, 3))
        assert directional.abs().min() > 1e-4
        torch.testing.assert_close(directional, slope, rtol=1e-5, atol=1e-8)


def test_a_frozen_model_stays_as_it_is(make_captioner, words):
    model = make_captioner()
    batch = inputs(words, dtype=torch.float32)
    with torch.no_grad():
        before = model(**batch).logits
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(2, 5\)"):
        capture_with_gradients(model, batch, lambda output: output.logits[:, :, 0])
    with pytest.raises(ValueError, match="score has no gradient"):
        capture_with_gradients(model, batch, lambda output: score(output).detach())
    free = capture_with_gradients(model, batch, score)[1]
    model.requires_grad_(False)
    next(model.text_decoder.parameters()).requires_grad_(True)
    flags = [p.requires_grad for p in model.parameters()]
    frozen = capture_with_gradients(model, batch, score)[1]
    assert all(torch.equal(free[name], frozen[name]) and free[name].any() for name in free)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, before)


def test_padding_changes_nothing_and_nothing_comes_from_later_tokens(make_captioner, words):
    model, batch = make_captioner().double(), inputs(words)
    padded = {
        **batch,
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 2)),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 2)),
    }
    short, long = capture_with_gradients(model, batch, score), capture_with_gradients(model, padded, score)
    for alone, beside in ((relevance(*short), relevance(*long)), (rollout(short[0]), rollout(long[0]))):
        torch.testing.assert_close(alone.seen, beside.seen[:, :5])
        torch.testing.assert_close(alone.own, beside.own[:, :5, :5])
    torch.testing.assert_close(raw(short[0]), raw(long[0])[:, :5])
    result = relevance(*short)
    assert (result.seen[:, POSITION].sum(-1) > 0).all()
    assert not result.seen[:, POSITION + 1 :].any()
    assert not result.own[:, POSITION, POSITION + 1 :].any()
    assert route(short[0]) == (
        [layer.format(k) for k in (0, 1) for layer in (SELF, CROSS)],
        [CROSS.format(1)],
    )


@pytest.mark.filterwarnings("error:.*in spite of the tiled backend")
@pytest.mark.parametrize("backend, training", [("dense", True), ("sparse", True), ("tiled", False)])
def test_gradients_are_the_same_with_every_backend_and_in_training(backend, training, make_captioner, words):
    """Where adapters would compute the layer's output from scores, nothing would depend on the weights."""
    found: list[dict] = []
    for kind, mode in (("dense", False), (backend, training)):
        model = make_captioner()
        torch.manual_seed(0)
        places = dict(reduction=2, positions=("self", "cross"))
        get_peft_model(
            model,
            GraphAdapterConfig(gnn="pgnn", backend=kind, join="replace", init_weights=False, **places),
        )
        for module in model.double().train(mode).modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        found.append(capture_with_gradients(model, inputs(words), score)[1])
    for name, gradient in found[0].items():
        assert gradient.any()
        torch.testing.assert_close(found[1][name], gradient)
