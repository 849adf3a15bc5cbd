"""Full fine-tuning with a learning rate of its own for the image encoder."""

import pytest
import torch

from adapters.peft import optimizer_groups
from attngraph.errors import UserError
from experiments.configs.settings import Choice, Settings
from experiments.methods import method_named
from tests.experiments.models.writers import load

FULL = method_named("full")
RATE = 5e-6


def settings(**arguments) -> dict:
    chosen = Settings(methods={"full": {"vqa": Choice(learning_rate=3e-5, arguments=arguments)}})
    return FULL.settings(chosen, "vqa")


def test_settings_without_it_are_as_ever():
    assert settings() == {} and settings(vision_learning_rate=RATE) == {"vision_learning_rate": RATE}
    assert FULL.apply(load("mplug"), {}).rates() == {}


@pytest.mark.parametrize("name", ["mplug", "blip"])
def test_a_step_moves_each_side_at_its_rate(name):
    """With gradients of one size everywhere, AdamW's first step is the learning rate."""
    family = load(name)
    tuned = FULL.apply(family, settings(vision_learning_rate=RATE))
    groups = optimizer_groups(family.model, 3e-5, 0.0, tuned.rates())
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, tuned.parameters().values())), "each parameter once"
    parameters = tuned.parameters()
    for parameter in parameters.values():
        parameter.data, parameter.grad = parameter.data.double(), None
    before = {key: p.detach().clone() for key, p in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(groups).step()
    for key, parameter in parameters.items():
        rate = RATE if key.startswith("vision_model.") else 3e-5
        moved = before[key] - parameter.detach()
        torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), True, "fast"])
def test_a_rate_that_is_none_is_one_line(rate):
    with pytest.raises(UserError, match="^full: vision_learning_rate must be a number above 0, got"):
        FULL.apply(load("mplug"), {"vision_learning_rate": rate})


def test_a_model_without_an_image_encoder_apart_is_refused():
    with pytest.raises(UserError, match="has no image encoder apart: leave vision_learning_rate out"):
        FULL.apply(load("git"), {"vision_learning_rate": RATE})
