"""Training on the Trainer equals a plain loop, and trains what a method says."""

import csv
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from experiments.models.batch import IGNORED
from experiments.training import device, trainer
from experiments.training.order import batch_positions
from experiments.training.recipe import Diverged, Recipe
from experiments.training.trainer import train
from tests.experiments.training.small import RECIPE, small_run, train_small


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: False)


@pytest.fixture
def lines(monkeypatch):
    """The lines of every step's log, without rounding."""
    kept = []
    monkeypatch.setattr(trainer, "_metrics", lambda steps: kept.extend(steps) or "")
    return kept


def plain_loop(tuned, data, recipe, seed):
    """The recipe written out; returns each step's loss, norm of the gradient and learning rate."""
    family, parameters = tuned.family, list(tuned.parameters().values())
    family.model.train()
    sizes = {
        "matrices": [p for p in parameters if p.dim() > 1],
        "others": [p for p in parameters if p.dim() <= 1],
    }
    rate = recipe.learning_rate
    optimizer = torch.optim.AdamW(
        [
            {"params": sizes["matrices"], "lr": rate, "weight_decay": recipe.weight_decay},
            {"params": sizes["others"], "lr": rate, "weight_decay": 0.0},
        ]
    )
    schedule = LambdaLR(optimizer, recipe.factor)
    steps = []
    for step in range(recipe.steps):
        positions, draws = batch_positions(len(data), recipe.batch_size, seed, step)
        inputs = family.training_inputs(
            [data.sample(k, u) for k, u in zip(positions.tolist(), draws.tolist())]
        )
        targets = inputs.pop("labels")[:, 1:]
        logs = family.logits(inputs)[:, :-1].log_softmax(-1)
        counted = targets != IGNORED
        right = logs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        smooth = recipe.label_smoothing
        losses = -(1 - smooth) * right - smooth * logs.mean(-1)
        loss = losses[counted].sum() / counted.sum()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        steps.append((loss.item(), norm.item(), schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return steps


@pytest.mark.parametrize("method", ["pgnn", "full"])
@pytest.mark.parametrize("clip", [1.0, 0.05])
def test_it_equals_a_plain_loop(method, clip, lines, tmp_path):
    recipe = replace(RECIPE, clip=clip, warmup=0.3)
    mine, data = small_run(tmp_path, method)
    expected = plain_loop(mine, data, recipe, seed=5)
    tuned, data = small_run(tmp_path, method)
    start = {name: p.detach().clone() for name, p in tuned.parameters().items()}
    train(tuned, data, recipe, 5, tmp_path / "run")
    assert len(lines) == recipe.steps
    for line, (loss, norm, rate) in zip(lines, expected):
        assert line["loss"] == pytest.approx(loss, abs=1e-6)
        assert line["grad_norm"] == pytest.approx(norm, rel=1e-4)
        assert line["learning_rate"] == pytest.approx(rate, rel=1e-6)
    if clip < 1:
        assert any(norm > clip for _, norm, _ in expected), "gradients are cut"
    for name, parameter in mine.parameters().items():
        assert torch.allclose(parameter, tuned.parameters()[name], atol=1e-6), name
    assert any(not torch.equal(start[name], p) for name, p in tuned.parameters().items())


def test_passes_of_a_step_add_up(lines, tmp_path):
    recipe = replace(RECIPE, batch_size=4)
    once = train_small(tmp_path / "once", recipe=recipe)
    twice = train_small(tmp_path / "twice", recipe=replace(recipe, accumulation=2))
    first, second = lines[: recipe.steps], lines[recipe.steps :]
    assert [line["loss"] for line in second] == pytest.approx([line["loss"] for line in first], abs=1e-5)
    for name, weight in once.weights.items():
        assert torch.allclose(weight, twice.weights[name], atol=1e-5), name


def test_bfloat16_is_finite_and_near(lines, monkeypatch, tmp_path):
    train_small(tmp_path / "float32")
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: True)
    outcome = train_small(tmp_path / "bfloat16")
    exact, near = lines[: RECIPE.steps], lines[RECIPE.steps :]
    assert all(math.isfinite(line["loss"]) for line in near)
    assert [line["loss"] for line in near] == pytest.approx([line["loss"] for line in exact], rel=0.05)
    assert [line["loss"] for line in near] != [line["loss"] for line in exact]
    assert all(
        weight.dtype == torch.float32 and weight.isfinite().all() for weight in outcome.weights.values()
    )


def test_training_changes_the_adapters_and_nothing_else(tmp_path):
    tuned, data = small_run(tmp_path)
    before = {name: p.detach().clone() for name, p in tuned.family.model.named_parameters()}
    train(tuned, data, RECIPE, 0, tmp_path / "run")
    trained = tuned.parameters()
    assert trained
    changed = [name for name, p in tuned.family.model.named_parameters() if not torch.equal(p, before[name])]
    assert set(changed) <= set(trained)
    assert any("p_logit" in name for name in changed) and any("up.weight" in name for name in changed)


def test_every_step_has_a_line(tmp_path):
    outcome = train_small(tmp_path)
    lines = list(csv.DictReader(outcome.metrics.splitlines()))
    assert list(lines[0]) == ["step", "loss", "learning_rate", "gradient_norm"]
    assert [int(line["step"]) for line in lines] == list(range(1, 9))
    losses = [float(line["loss"]) for line in lines]
    assert outcome.trained.loss == pytest.approx(sum(losses) / 8, abs=1e-5)
    assert all(float(line["gradient_norm"]) > 0 for line in lines)


def test_a_run_stays_on_its_gpu(monkeypatch, tmp_path):
    """As if there were several: the Trainer moves the model to ``args.device``."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    tuned = SimpleNamespace(family=SimpleNamespace(device=torch.device("cuda:1")))
    _, data = small_run(tmp_path)
    args = trainer.arguments(tuned, RECIPE, 0, tmp_path, data)
    assert args.device == torch.device("cuda:1") == chosen[-1] and args.n_gpu == 1
    assert args.per_device_train_batch_size == RECIPE.batch_size


@pytest.mark.parametrize("step", [0, 2])
def test_a_loss_that_is_not_finite_ends_the_run_with_folder_rate_and_remedy(step, tmp_path):
    tuned, data = small_run(tmp_path)

    def spoil(done):
        if done == step:
            data.family.model.text_decoder.cls.predictions.bias.data.fill_(float("nan"))

    spoil(0)
    with pytest.raises(Diverged, match=r"lower the learning rate \(0.01\)") as error:
        train(tuned, data, Recipe(1e-2, 5, batch_size=3), 0, tmp_path / "run", spoil)
    assert str(tmp_path / "run") in str(error.value) and f"at step {step}" in str(error.value)
    assert not (tmp_path / "run" / "metrics.csv").exists()
