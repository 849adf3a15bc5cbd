"""Training is what a plain loop over the same batches would compute, whichever way a step is divided."""

import csv
import math
import os
from types import SimpleNamespace

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from attngraph.errors import UserError
from attngraph.experiments.methods import method_named
from attngraph.experiments.methods.peft import AdaLoraTuned
from attngraph.experiments.methods.settings import Settings
from attngraph.experiments.models.batch import IGNORED
from attngraph.experiments.models.blip import BlipCaptioner
from attngraph.experiments.runs import device
from attngraph.experiments.runs import train as training
from attngraph.experiments.runs.data import places_of
from attngraph.experiments.runs.experiment import Diverged
from attngraph.experiments.runs.train import STATES, LossModule, compute_again, last_state, train
from tests.experiments.runs.small import RECIPE, recipe_of, small_family, small_run, train_small


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 3)
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: False)


@pytest.fixture
def lines(monkeypatch):
    """The exact numbers of all steps, run after run."""
    found, ended = [], training.State.save

    def save(self, file):
        if self.step == RECIPE.steps:
            found.extend(self.lines)
        return ended(self, file)

    monkeypatch.setattr(training.State, "save", save)
    return found


def losses(lines):
    return [line["loss"] for line in lines]


def plain_loop(tuned, data, recipe, seed, monkeypatch):
    """Losses, gradient norms and learning rates of each step, written out."""
    family, parameters = data.family, list(tuned.parameters().values())
    family.model.train()
    decayed = {True: recipe.weight_decay, False: 0.0}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if (p.dim() > 1) == matrix], "weight_decay": decay}
            for matrix, decay in decayed.items()
        ],
        recipe.learning_rate,
    )
    schedule = LambdaLR(optimizer, recipe.factor)
    if isinstance(tuned, AdaLoraTuned):
        tuned.config.total_step = recipe.steps
    steps = []
    for step in range(recipe.steps):
        places = places_of(len(data), recipe.batch_size, seed, step)
        inputs = family.training_inputs([data.sample(place.position, place.draw) for place in places])
        targets = inputs.pop("labels")[:, 1:]
        logs = family.logits(inputs)[:, :-1].log_softmax(-1)
        counted = targets != IGNORED
        right = logs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        smooth = recipe.label_smoothing
        each = -(1 - smooth) * right - smooth * logs.mean(-1)
        loss = each[counted].sum() / counted.sum()
        adalora = tuned.model.base_model if isinstance(tuned, AdaLoraTuned) else None
        if adalora:  # PEFT adds the penalty to the loss that a forward pass returns
            with monkeypatch.context() as patch:
                patch.setattr(adalora.model, "forward", lambda loss: SimpleNamespace(loss=loss))
                loss = adalora(loss).loss
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        steps.append((loss.item(), norm.item(), schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
        if adalora:
            adalora.update_and_allocate(step + 1)
    return steps


@pytest.mark.parametrize("method, clip", [("pgnn", 0.05), ("full", 1.0), ("adalora", 1.0)])
def test_it_equals_a_plain_loop(method, clip, lines, tmp_path, monkeypatch):
    recipe = recipe_of(clip=clip, warmup=0.3)
    mine, data = small_run(tmp_path, method)
    expected = plain_loop(mine, data, recipe, 5, monkeypatch)
    tuned, data = small_run(tmp_path, method)
    before = {name: p.detach().clone() for name, p in tuned.family.model.named_parameters()}
    trained = train(tuned, data, recipe, 5, tmp_path / "run")
    assert len(lines) == recipe.steps
    for line, (loss, norm, rate) in zip(lines, expected):
        assert line["loss"] == pytest.approx(loss, abs=1e-6)
        assert line["gradient_norm"] == pytest.approx(norm, rel=1e-4)
        assert line["learning_rate"] == pytest.approx(rate, rel=1e-6)
    assert (max(norm for _, norm, _ in expected) > clip) or clip == 1.0, "gradients are cut"
    for name, parameter in mine.parameters().items():
        assert torch.allclose(parameter, tuned.parameters()[name], atol=1e-6), name
    changed = {name for name, p in tuned.family.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and changed <= set(tuned.parameters()), "nothing else"
    table = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert list(table[0]) == ["step", "loss", "learning_rate", "gradient_norm"]
    assert [int(line["step"]) for line in table] == list(range(1, 9))
    assert trained.loss == pytest.approx(sum(losses(lines)) / 8)


def test_adalora_reduces_ranks_between_two_steps(tmp_path):
    """After step tinit, by the third power of what is left, until tfinal steps before the end."""
    method = method_named("adalora")
    settings = method.settings(Settings(), "vqa") | {"init_r": 6, "target_r": 2, "tinit": 3, "tfinal": 2}
    tuned = method.apply(small_family(), settings)
    torch.manual_seed(0)
    values = [p for name, p in tuned.parameters().items() if "lora_E" in name]
    ranks = []
    for step in range(1, 9):
        for p in tuned.parameters().values():
            p.data, p.grad = torch.randn_like(p), torch.randn_like(p)
        tuned.after_step(step, 8)
        ranks.append(sum(int(p.count_nonzero()) for p in values) / len(values))
    left = [1, 1, 1, 2 / 3, 1 / 3, 0, 0, 0]
    assert ranks == [2 + int((6 - 2) * part**3) for part in left]
    with pytest.raises(UserError, match="between step tinit = 3 and 5 - tfinal = 3: choose smaller ones"):
        tuned.after_step(1, 5)


def test_questions_about_an_image_are_in_one_batch_if_the_recipe_groups_them(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_inputs", lambda family, samples: [sample.name for sample in samples])
    _, data = small_run(tmp_path)
    for together in (1, 2):
        recipe = recipe_of(batch_size=4, group_pictures=together)
        batches = list(training._loader(data, recipe, 5, torch.device("cpu"), 0))
        images = [{int(name.removeprefix("e")) // 2 for name in names} for names in batches]
        assert len(images) == recipe.steps and all(len(names) == 4 for names in batches)
        assert all(len(few) == 2 for few in images) == (together == 2)


@pytest.mark.parametrize("method", ["pgnn", "adalora"])
def test_passes_of_a_step_add_up(method, lines, tmp_path):
    """AdaLoRA's penalty included."""
    once = train_small(tmp_path / "once", method, recipe_of(batch_size=4))
    twice = train_small(tmp_path / "twice", method, recipe_of(batch_size=4, accumulation=2))
    assert losses(lines[8:]) == pytest.approx(losses(lines[:8]), abs=1e-5)
    for name, weight in once.weights.items():
        assert torch.allclose(weight, twice.weights[name], atol=1e-5), name


@pytest.mark.parametrize("precision, pays, half", [("auto", True, True), ("float32", True, False)])
def test_the_precision_is_as_the_recipe_says(precision, pays, half, lines, tmp_path, monkeypatch):
    """Whatever ``accelerate launch`` says. Losses in bfloat16 are near, and weights stay float32."""
    train_small(tmp_path / "float32")
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: pays)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no" if half else "bf16")
    dtypes, plain = set(), training.token_losses
    monkeypatch.setattr(training, "token_losses", lambda x, *more: dtypes.add(x.dtype) or plain(x, *more))
    outcome = train_small(tmp_path / "run", recipe=recipe_of(precision=precision))
    assert dtypes == {torch.bfloat16 if half else torch.float32}
    assert device.training_precision("cpu", precision) == ("bfloat16 autocast" if half else "float32")
    exact, found = losses(lines[:8]), losses(lines[8:])
    assert found == pytest.approx(exact, rel=0.05) and (found == exact) != half
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in outcome.weights.values())


@pytest.mark.parametrize("what, step", [("loss", 4), ("weight", 6)])
def test_numbers_that_are_not_finite_leave_the_last_good_state(what, step, tmp_path):
    tuned, data = small_run(tmp_path)

    def spoil(done):
        if done == step and what == "loss":
            data.family.model.text_decoder.cls.predictions.bias.data.fill_(math.nan)
        if done == step and what == "weight":  # the state of this step is not saved yet
            next(iter(tuned.parameters().values())).data.fill_(math.inf)

    run = tmp_path / "run"
    with pytest.raises(
        Diverged, match=rf"{run}: .*{what} is not finite at step {step}; lower the learning rate \(0.01\)"
    ):
        train(tuned, data, RECIPE, 5, run, spoil)
    assert not (run / "metrics.csv").exists()
    assert os.listdir(run / STATES) == ["step-3.pt"] and last_state(run).name == "step-3.pt"
    steps = []
    train_small(tmp_path, on_step=steps.append)
    assert steps == [4, 5, 6, 7, 8]


# ---- memory -----------------------------------------------------------------------------------------------


def test_too_little_memory_is_one_line_with_the_remedy(tmp_path, monkeypatch):
    def never(self, inputs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(BlipCaptioner, "logits", never)
    said = "out of memory with 3 examples .*use a larger recipe.accumulation, now 2"
    with pytest.raises(UserError, match=said) as error:
        train_small(tmp_path, recipe=recipe_of(batch_size=6, accumulation=2))
    assert "\n" not in str(error.value)


# ---- activations that are computed again ------------------------------------------------------------------


def gradients(folder, method, wanted):
    """Loss, gradients and the bytes that the forward pass keeps for the backward pass."""
    tuned, data = small_run(folder, method, dropout=0.3)
    inputs, saved = data.family.training_inputs([data.sample(k, 0.2) for k in range(4)]), []

    def keep(tensor):
        saved.append(tensor.numel() * tensor.element_size())
        return tensor

    module = LossModule(tuned, 0.1).train()
    torch.manual_seed(3)
    if wanted:
        compute_again(data.family.model)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = module(**inputs, tokens=torch.tensor(9))
    loss.backward()
    return loss, {name: p.grad for name, p in tuned.parameters().items()}, sum(saved)


@pytest.mark.parametrize("method", ["pgnn", "gcnii", "full", "prefix"])
def test_activations_computed_again_give_the_same_gradients_and_take_less_memory(method, tmp_path):
    loss, expected, much = gradients(tmp_path, method, False)
    again, found, little = gradients(tmp_path, method, True)
    assert torch.equal(loss, again) and expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert torch.equal(gradient, found[name]) if gradient is not None else found[name] is None, name
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in found.values())
    assert little < 0.43 * much


def test_a_model_that_cannot_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.BlipForConditionalGeneration.supports_gradient_checkpointing", False)
    with pytest.raises(UserError, match="cannot recompute activations: remove checkpointing"):
        train_small(tmp_path, recipe=recipe_of(checkpointing=True))


def test_a_label_that_nothing_predicts_is_refused(tmp_path):
    """As labels of an encoder-decoder stand in transformers: training would learn to leave a token out."""
    family = small_family()
    inputs = family.training_inputs

    def shifted(samples):
        batch = inputs(samples)
        return {**batch, "labels": batch["labels"].roll(-1, 1).index_fill(1, torch.tensor([0]), 5)}

    family.training_inputs = shifted
    with pytest.raises(UserError, match="training_inputs has a label at the first position"):
        train_small(tmp_path, family=family)
