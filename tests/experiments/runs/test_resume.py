"""An interrupted run goes on as if it had not been interrupted, to the bit."""

import os
import resource
import sys
from pathlib import Path

import pytest
import torch

from attngraph.errors import UserError
from attngraph.experiments.runs import device
from attngraph.experiments.runs import train as training
from attngraph.experiments.runs.train import KEPT, STATES, last_state
from attngraph.experiments.runs.validation import Validation
from tests.experiments.runs.small import Stopped, recipe_of, train_small

ROOT = Path(__file__).parents[3]
COLUMN = "small.accuracy"


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """A state after steps 3, 6 and 8. The second validation of a run is its best one."""
    monkeypatch.setattr(training, "SAVE_EVERY", 3)
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: False)
    scores, given = Validation.scores, (0.3, 0.5, 0.1, 0.5)
    monkeypatch.setattr(Validation, "scores", lambda self: scores(self) and {COLUMN: given[len(self.done)]})


def stopped(folder, step, *about, **options):
    """Begins a run and stops it after a step, before anything more of that step is saved."""

    def stop(done):
        if done == step:
            raise Stopped

    with pytest.raises(Stopped):
        train_small(folder, *about, on_step=stop, **options)


def check_equal(outcome, expected):
    assert outcome.weights.keys() == expected.weights.keys() and expected.weights
    for name, weight in expected.weights.items():
        assert torch.equal(weight, outcome.weights[name]), name
    assert outcome.metrics == expected.metrics and outcome.predictions == expected.predictions
    assert outcome.trained.loss == expected.trained.loss


IN_PASSES = recipe_of(batch_size=4, accumulation=2)
VALIDATED = recipe_of(validate_every=2)
STOPS = {
    "before any state": (2, "full", IN_PASSES),
    "a state at this step is not saved yet": (3, "lora", recipe_of(checkpointing=True)),
    "after a state, a validation that was the best is lost": (4, "prefix", VALIDATED),
    "after a state, in the middle of an epoch": (5, "pgnn", recipe_of(group_pictures=2)),
    "the best weights are in the state": (7, "full", recipe_of(validate_every=2, patience=3)),
    "early stopping": (6, "pgnn", recipe_of(validate_every=2, steps=20, patience=2)),
    "after the last step": (
        8,
        "decoder",
        recipe_of(batch_size=4, accumulation=2, validate_every=2, schedule="cosine"),
    ),
    "importance that decides on ranks": (5, "adalora", IN_PASSES),
    "in half precision": (5, "full", recipe_of(precision="bfloat16")),
}


@pytest.mark.parametrize("place", STOPS)
def test_after_an_interrupt(place, tmp_path):
    step, method, recipe = STOPS[place]
    expected = train_small(tmp_path / "whole", method, recipe, dropout=0.3)
    stopped(tmp_path / "halves", step, method, recipe, dropout=0.3)
    assert not (tmp_path / "halves" / "run" / "metrics.csv").exists()
    assert len(list((tmp_path / "whole" / "run" / STATES).iterdir())) == KEPT
    steps = []
    outcome = train_small(tmp_path / "halves", method, recipe, 0.3, on_step=steps.append)
    assert steps[0] == (step - 1) // 3 * 3 + 1, "it goes on from the last saved state"
    check_equal(outcome, expected)
    assert (outcome.trained.earlier_seconds > 0) == (step > 3)
    if recipe.validate_every:
        tables = [(tmp_path / name / "run" / "validation.csv").read_bytes() for name in ("whole", "halves")]
        assert tables[0] == tables[1]
    again = []
    check_equal(train_small(tmp_path / "halves", method, recipe, 0.3, on_step=again.append), expected)
    assert again == [], "the last state is enough"


def test_a_damaged_state_is_named_with_the_remedy(tmp_path):
    stopped(tmp_path, 5)
    file = last_state(tmp_path / "run")
    content = torch.load(file, weights_only=True)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    message = f"{file} cannot be read .*: delete that file and run again"
    with pytest.raises(UserError, match=message) as error:
        train_small(tmp_path)
    assert "\n" not in str(error.value)
    content["weights"].popitem()
    torch.save(content, file)
    with pytest.raises(UserError, match=message):
        train_small(tmp_path)
    file.unlink()
    steps = []
    train_small(tmp_path, on_step=steps.append)
    assert steps[0] == 1, "the remedy works"


@pytest.mark.skipif(sys.platform != "linux", reason="limits of file sizes")
def test_a_full_disk_leaves_the_state_before(tmp_path):
    """The system's own refusal, in the middle of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(step):
        if step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))

    try:
        with pytest.raises(UserError, match="step-6.pt cannot be saved .*: free disk space") as error:
            train_small(tmp_path, on_step=limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path / "run" / STATES) == ["step-3.pt"]
    check_equal(train_small(tmp_path), train_small(tmp_path / "whole"))
