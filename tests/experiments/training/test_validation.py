"""A validated run keeps its best state, stops in time, and trains as if nobody had looked."""

import random
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from attngraph.errors import UserError
from experiments.training import device, states, trainer, validation
from experiments.training.states import STATES, best_file, load_weights
from experiments.training.validation import Validation, best_of, undisturbed, validations_since
from tests.experiments.training.small import RECIPE, small_run, train_small

COLUMN = "small.accuracy"
VALIDATED = replace(RECIPE, validate_every=2)
METHODS = ("pgnn", "prefix", *(pytest.param(name, marks=pytest.mark.slow) for name in ("full", "lora")))


class Stopped(Exception):
    """Raised from ``on_step``."""


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(trainer, "SAVE_EVERY", 3)
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: False)


@pytest.fixture
def scripted(monkeypatch):
    """``scripted(score, ...)``: what the validations of a run give, after all that they do."""
    plain = Validation.scores

    def script(*given):
        def scores(self):
            assert plain(self)[COLUMN] >= 0
            return {COLUMN: given[len(self.done)]}

        monkeypatch.setattr(Validation, "scores", scores)

    return script


def listed(*scores):
    return [{"step": 10 * k + 10, "scores": {COLUMN: score}} for k, score in enumerate(scores)]


@pytest.mark.parametrize(
    "scores, best, since",
    [
        ((), 0, 0),
        ((0.2,), 10, 0),
        ((0.2, 0.2), 10, 1),
        ((0.1, 0.3, 0.2, 0.3), 20, 2),
        ((0.1, 0.2, 0.4), 30, 0),
    ],
)
def test_the_first_of_the_highest_scores_is_the_best(scores, best, since):
    assert best_of(listed(*scores), COLUMN) == best
    assert validations_since(listed(*scores), COLUMN) == since


@pytest.mark.parametrize("method", METHODS)
def test_validations_leave_the_training_as_it_is(method, tmp_path):
    """The last state and every line of the log, to the bit, with dropout."""
    plain = train_small(tmp_path / "plain", method, dropout=0.3)
    validated = train_small(tmp_path / "validated", method, VALIDATED, dropout=0.3)
    assert plain.metrics == validated.metrics
    folders = [tmp_path / name / "run" / STATES / "checkpoint-8" for name in ("plain", "validated")]
    one, other = (load_file(folder / "trained.safetensors") for folder in folders)
    assert one.keys() == other.keys() and one
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert validated.trained.validations == 4


def test_random_numbers_and_modes_are_put_back():
    def draws():
        return torch.rand(3).tolist(), random.random(), np.random.rand()

    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout().eval())
    for seeds in (torch.manual_seed, random.seed, np.random.seed):
        seeds(0)
    expected = draws()
    for seeds in (torch.manual_seed, random.seed, np.random.seed):
        seeds(0)
    with pytest.raises(Stopped), undisturbed(model):
        assert not any(module.training for module in model.modules())
        draws()
        raise Stopped
    assert draws() == expected
    assert [module.training for module in model.modules()] == [True, True, False]


def test_the_best_state_is_kept_and_taken_in_the_end(scripted, tmp_path):
    scripted(0.1, 0.4, 0.4, 0.2)
    at = {}
    tuned, data = small_run(tmp_path)

    def keep(step):
        at[step] = {name: p.detach().clone() for name, p in tuned.parameters().items()}

    run = tmp_path / "run"
    chosen = Validation(tuned, data, data.task.decoding, VALIDATED, run)
    trained = trainer.train(tuned, data, VALIDATED, 5, run, keep, chosen)
    assert (trained.best_step, trained.validations) == (4, 4)
    assert all(torch.equal(p, at[4][name]) for name, p in tuned.parameters().items())
    assert any(not torch.equal(at[4][name], at[8][name]) for name in at[4])
    table = pd.read_csv(run / "validation.csv")
    assert table["step"].tolist() == [2, 4, 6, 8] and table[COLUMN].tolist() == [0.1, 0.4, 0.4, 0.2]
    assert [file.name for file in (run / STATES).glob("best-*")] == ["best-4.safetensors"]


def test_the_last_step_is_validated_whatever_its_number(scripted, tmp_path):
    scripted(0.1, 0.2, 0.3)
    outcome = train_small(tmp_path, recipe=replace(RECIPE, validate_every=3))
    assert pd.read_csv(tmp_path / "run" / "validation.csv")["step"].tolist() == [3, 6, 8]
    assert outcome.trained.best_step == 8


def test_it_stops_when_patience_is_at_an_end(scripted, tmp_path):
    scripted(0.1, 0.3, 0.3, 0.2, 0.9)
    steps, patient = [], replace(RECIPE, steps=20, validate_every=2, patience=2)
    outcome = train_small(tmp_path, recipe=patient, on_step=steps.append)
    assert steps == list(range(1, 9)) and outcome.trained.best_step == 4
    assert len(outcome.metrics.splitlines()) == 9
    again = []
    same = train_small(tmp_path, recipe=patient, on_step=again.append)
    assert again == [], "it is over, whoever asks again"
    assert same.metrics == outcome.metrics and same.trained.validations == 4
    assert all(torch.equal(weight, same.weights[name]) for name, weight in outcome.weights.items())


@pytest.mark.parametrize("method", ["pgnn", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(2, marks=pytest.mark.slow),
        4,
        pytest.param(5, marks=pytest.mark.slow),
        7,
        pytest.param(8, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_goes_on_to_the_bit(method, stop, scripted, tmp_path):
    """Before, at and after validations and states; the best state comes before or after the interrupt."""
    scripted(0.3, 0.5, 0.1, 0.5)
    recipe = replace(VALIDATED, patience=3)
    expected = train_small(tmp_path / "whole", method, recipe, dropout=0.3)

    def interrupt(step):
        if step == stop:
            raise Stopped

    with pytest.raises(Stopped):
        train_small(tmp_path / "halves", method, recipe, 0.3, interrupt)
    outcome = train_small(tmp_path / "halves", method, recipe, dropout=0.3)
    assert outcome.metrics == expected.metrics and outcome.predictions == expected.predictions
    assert all(torch.equal(weight, outcome.weights[name]) for name, weight in expected.weights.items())
    for found in (outcome.trained, expected.trained):
        assert (found.best_step, found.validations) == (4, 4)
    tables = [(tmp_path / name / "run" / "validation.csv").read_bytes() for name in ("whole", "halves")]
    assert tables[0] == tables[1]


def test_weights_that_a_state_needs_stay(scripted, tmp_path):
    """After step 8 the best is of step 8; the state of step 6 goes on with that of step 4."""
    scripted(0.1, 0.3, 0.2, 0.4)
    train_small(tmp_path, recipe=VALIDATED)
    folder = tmp_path / "run" / STATES
    assert sorted(file.name for file in folder.glob("best-*")) == ["best-4.safetensors", "best-8.safetensors"]
    shutil.rmtree(folder / "checkpoint-8")
    steps = []
    assert train_small(tmp_path, recipe=VALIDATED, on_step=steps.append).trained.best_step == 8
    assert steps == [7, 8]


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_best_weights_that_cannot_be_read_are_named_with_the_remedy(harm, scripted, tmp_path):
    scripted(0.4, 0.3, 0.2, 0.1)
    expected = train_small(tmp_path, recipe=VALIDATED)
    file = best_file(tmp_path / "run", 2)
    file.unlink() if harm == "missing" else file.write_bytes(b"half")
    with pytest.raises(UserError, match="cannot be read .*: delete that folder and run again") as error:
        train_small(tmp_path, recipe=VALIDATED)
    assert "\n" not in str(error.value)
    shutil.rmtree(tmp_path / "run" / STATES)
    outcome = train_small(tmp_path, recipe=VALIDATED)
    assert all(torch.equal(weight, outcome.weights[name]) for name, weight in expected.weights.items())


@pytest.mark.parametrize(
    "place", [pytest.param((states, "save_file"), marks=pytest.mark.slow), (validation, "write_text")]
)
def test_a_full_disk_leaves_a_state_to_go_on_from(place, scripted, tmp_path, monkeypatch):
    scripted(0.1, 0.2, 0.3, 0.4)
    expected = train_small(tmp_path / "whole", recipe=VALIDATED)
    write, calls = getattr(*place), []

    def refuse(*args, **options):
        calls.append(args)
        if "checkpoint" not in str(args) and (tmp_path / "full" / "run" / STATES / "checkpoint-3").exists():
            raise OSError(28, "No space left on device")
        return write(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(*place, refuse)
        with pytest.raises((UserError, OSError), match="No space left"):
            train_small(tmp_path / "full", recipe=VALIDATED)
    names = sorted(path.name for path in (tmp_path / "full" / "run" / STATES).iterdir())
    assert "checkpoint-3" in names and not any(name.startswith(".") for name in names)
    steps = []
    outcome = train_small(tmp_path / "full", recipe=VALIDATED, on_step=steps.append)
    assert steps[0] == 4
    assert all(torch.equal(weight, outcome.weights[name]) for name, weight in expected.weights.items())


def test_weights_of_another_shape_are_refused(tmp_path):
    tuned, _ = small_run(tmp_path)
    states.save_weights(tuned, tmp_path / "some.safetensors")
    other, _ = small_run(tmp_path, "full")
    with pytest.raises((KeyError, ValueError)):
        load_weights(other, tmp_path / "some.safetensors")
