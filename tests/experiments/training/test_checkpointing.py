"""Activations that are computed again in the backward pass give the same gradients, and take less memory."""

from dataclasses import replace

import pytest
import torch

from attngraph.errors import UserError
from experiments.training import device
from experiments.training.trainer import LossModule, checkpointed
from tests.experiments.training.small import RECIPE, small_run, train_small

METHODS = ("gcn", "pgnn", "appnp", "gcnii", "full", "decoder", "lora", "prefix")


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: False)


def gradients(folder, method, wanted, dropout=0.3):
    """Loss, gradients and the bytes that the forward pass keeps for the backward pass."""
    tuned, data = small_run(folder, method, dropout)
    inputs, saved = data.family.training_inputs([data.sample(k, 0.2) for k in range(4)]), []

    def keep(tensor):
        saved.append(tensor.numel() * tensor.element_size())
        return tensor

    module = LossModule(tuned, 0.1).train()
    torch.manual_seed(3)
    with checkpointed(data.family.model, wanted):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = module(**inputs, num_items_in_batch=9)["loss"]
        loss.backward()
    return loss, {name: p.grad for name, p in tuned.parameters().items()}, sum(saved), tuned, data


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_the_same_to_the_bit(method, tmp_path):
    loss, expected, much, *_ = gradients(tmp_path, method, False)
    again, found, little, *_ = gradients(tmp_path, method, True)
    assert torch.equal(loss, again) and expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert torch.equal(gradient, found[name]) if gradient is not None else found[name] is None, name
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in found.values())
    assert little < 0.41 * much


@pytest.mark.parametrize("method", ["pgnn", "full"])
def test_a_run_is_the_same_to_the_bit(method, tmp_path):
    plain = train_small(tmp_path / "plain", method, dropout=0.3)
    again = train_small(tmp_path / "again", method, replace(RECIPE, checkpointing=True), dropout=0.3)
    assert plain.metrics == again.metrics and plain.predictions == again.predictions
    assert all(torch.equal(weight, again.weights[name]) for name, weight in plain.weights.items())


def test_what_adapters_do_is_counted_once(tmp_path):
    """The layers are run a second time in the backward pass; effects are of the forward pass."""
    *_, tuned, data = gradients(tmp_path, "pgnn", True)
    expected = tuned.effects(data.first(4))
    with checkpointed(data.family.model, True):
        tuned.family.model.train()
        found = tuned.effects(data.first(4))
        tuned.family.model.eval()
    assert found.keys() == expected.keys() and len(found) == 2
    assert {name: effect["queries"] for name, effect in found.items()} == {
        name: effect["queries"] for name, effect in expected.items()
    }
    assert not data.family.model.is_gradient_checkpointing, "it is switched off in the end"


def test_a_model_that_cannot_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.BlipForConditionalGeneration.supports_gradient_checkpointing", False)
    with pytest.raises(UserError, match="cannot compute activations again: leave out checkpointing"):
        train_small(tmp_path, recipe=replace(RECIPE, checkpointing=True))
