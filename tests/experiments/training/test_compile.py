"""Compiled passes give what plain ones give."""

from dataclasses import replace

import pytest
import torch

from attngraph.errors import UserError
from experiments.training import device, trainer
from tests.experiments.training.small import RECIPE, train_small


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: False)
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("method", ["full", "gcn", "pgnn", "appnp", "gcnii", "lora", "prefix"])
def test_a_run_is_the_same(method, tmp_path):
    recipe = replace(RECIPE, steps=3)
    plain = train_small(tmp_path / "plain", method, recipe)
    compiled = train_small(tmp_path / "compiled", method, replace(recipe, compile=True))
    losses = [[float(x.split(",")[1]) for x in run.metrics.splitlines()[1:]] for run in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-5)
    assert all(torch.allclose(p, compiled.weights[name], atol=1e-5) for name, p in plain.weights.items())
    assert plain.predictions == compiled.predictions


def test_a_model_that_cannot_be_compiled_is_one_line(tmp_path, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no compiler\nand a long story")

    torch._dynamo.reset()
    monkeypatch.setattr(trainer, "COMPILER", broken)
    with pytest.raises(UserError, match="cannot be compiled here .*: leave out compile") as error:
        train_small(tmp_path, recipe=replace(RECIPE, compile=True))
    assert "\n" not in str(error.value)
