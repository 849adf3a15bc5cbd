"""A validated run keeps its best state, stops in time, and trains as if nobody had looked."""

import random

import numpy as np
import pandas as pd
import pytest
import torch

from attngraph.experiments.runs import device
from attngraph.experiments.runs import train as training
from attngraph.experiments.runs.train import STATES
from attngraph.experiments.runs.validation import Validation, undisturbed
from tests.experiments.runs.small import Stopped, recipe_of, small_run, train_small

COLUMN = "small.accuracy"
VALIDATED = recipe_of(validate_every=2)


@pytest.fixture(autouse=True)
def float32(monkeypatch):
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


@pytest.mark.parametrize(
    "scores, best, over",
    [
        ((), 0, False),
        ((0.2, 0.2), 10, False),
        ((0.2, 0.2, 0.1), 10, True),
        ((0.1, 0.3, 0.2, 0.3), 20, True),
        ((0.1, 0.2, 0.4), 30, False),
    ],
)
def test_the_first_of_the_highest_scores_is_the_best(scores, best, over, tmp_path):
    tuned, data = small_run(tmp_path)
    done = [{"step": 10 * k + 10, "scores": {COLUMN: score}} for k, score in enumerate(scores)]
    for patience in (2, None):
        recipe = recipe_of(validate_every=2, patience=patience)
        found = Validation(tuned, data, data.task.decoding, recipe, tmp_path, done)
        assert found.best_step == best and found.is_over == (over and patience is not None)


def test_validations_leave_the_training_as_it_is(tmp_path):
    """The last state and every line of the log, to the bit, with dropout."""
    plain = train_small(tmp_path / "plain", dropout=0.3)
    validated = train_small(tmp_path / "validated", recipe=VALIDATED, dropout=0.3)
    assert plain.metrics == validated.metrics
    files = [tmp_path / name / "run" / STATES / "step-8.pt" for name in ("plain", "validated")]
    one, other = (torch.load(file, weights_only=True)["weights"] for file in files)
    assert one.keys() == other.keys() and one
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert len((tmp_path / "validated" / "run" / "validation.csv").read_text().splitlines()) == 5


def test_random_numbers_and_modes_are_put_back():
    def draws():
        return torch.rand(3).tolist(), random.random(), np.random.rand()

    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout().eval())
    training.set_seed(0)
    expected = draws()
    training.set_seed(0)
    with pytest.raises(Stopped), undisturbed(model):
        assert not any(module.training for module in model.modules())
        draws()
        raise Stopped
    assert draws() == expected
    assert [module.training for module in model.modules()] == [True, True, False]


def test_the_best_state_is_kept_and_taken_in_the_end(scripted, tmp_path):
    scripted(0.1, 0.4, 0.2)
    at = {}
    tuned, data = small_run(tmp_path)

    def keep(step):
        at[step] = {name: p.detach().clone() for name, p in tuned.parameters().items()}

    recipe = recipe_of(validate_every=3)
    chosen = Validation(tuned, data, data.task.decoding, recipe, tmp_path / "run")
    training.train(tuned, data, recipe, 5, tmp_path / "run", keep, chosen)
    assert (chosen.best_step, len(chosen.done)) == (6, 3)
    assert all(torch.equal(p, at[6][name]) for name, p in tuned.parameters().items())
    assert any(not torch.equal(at[6][name], at[8][name]) for name in at[6])
    table = pd.read_csv(tmp_path / "run" / "validation.csv")
    assert table["step"].tolist() == [3, 6, 8], "the last step, too"
    assert table[COLUMN].tolist() == [0.1, 0.4, 0.2]


def test_it_stops_when_patience_is_at_an_end(scripted, tmp_path):
    scripted(0.1, 0.3, 0.3, 0.2, 0.9)
    steps, patient = [], recipe_of(steps=20, validate_every=2, patience=2)
    outcome = train_small(tmp_path, recipe=patient, on_step=steps.append)
    assert steps == list(range(1, 9))
    assert len(outcome.metrics.splitlines()) == 9
