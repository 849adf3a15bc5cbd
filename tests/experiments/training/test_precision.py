"""The precision of training's passes."""

from dataclasses import replace

import pytest
import torch

from attngraph.errors import UserError
from experiments.training import device, trainer
from tests.experiments.training.small import RECIPE, train_small


@pytest.mark.parametrize(
    "precision, half, said",
    [
        ("auto", False, "float32"),
        ("auto", True, "bfloat16 autocast"),
        ("float32", True, "float32"),
        ("bfloat16", False, "bfloat16 autocast"),
    ],
)
def test_the_precision_is_as_the_recipe_says(precision, half, said, tmp_path, monkeypatch):
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: half)
    dtypes, plain = [], trainer.token_losses
    monkeypatch.setattr(trainer, "token_losses", lambda x, *more: dtypes.append(x.dtype) or plain(x, *more))
    outcome = train_small(tmp_path, recipe=replace(RECIPE, steps=2, precision=precision))
    assert device.training_precision("cpu", precision) == said
    assert set(dtypes) == {torch.bfloat16 if "bfloat16" in said else torch.float32}
    assert all(weight.dtype == torch.float32 for weight in outcome.weights.values())


@pytest.mark.parametrize("name, precision", [("cpu", "float16"), ("mps", "float16"), ("mps", "bfloat16")])
def test_a_precision_that_a_device_lacks_is_one_line(name, precision):
    with pytest.raises(UserError, match=f"{precision} is .*trained on .*: choose"):
        device.training_precision(name, precision)
