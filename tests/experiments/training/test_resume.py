"""An interrupted run goes on as if it had not been interrupted, to the bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from attngraph.errors import UserError
from experiments.training import device, states, trainer
from experiments.training.states import SECONDS, STATES, last_state
from tests.experiments.training.small import train_small

ROOT = Path(__file__).parents[3]
CASES = [
    ("pgnn", 0.3),
    ("full", 0.3),
    *(pytest.param(method, 0.0, marks=pytest.mark.slow) for method in ("pgnn", "full")),
]


class Stopped(Exception):
    """Raised from ``on_step``."""


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(trainer, "SAVE_EVERY", 3)
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """``whole(method, dropout)``: the outcome of a run that nothing interrupts."""
    outcomes = {}

    def outcome(method, dropout):
        if (method, dropout) not in outcomes:
            folder = tmp_path_factory.mktemp("whole")
            outcomes[method, dropout] = train_small(folder, method, dropout=dropout)
        return outcomes[method, dropout]

    return outcome


def stop_at(last):
    def stop(step):
        if step == last:
            raise Stopped

    return stop


def stopped(folder, method="pgnn", dropout=0.0, step=5):
    with pytest.raises(Stopped):
        train_small(folder, method, dropout=dropout, on_step=stop_at(step))
    return folder


def check_equal(outcome, expected):
    assert outcome.weights.keys() == expected.weights.keys() and expected.weights
    for name, weight in expected.weights.items():
        assert torch.equal(weight, outcome.weights[name]), name
    assert outcome.metrics == expected.metrics
    assert outcome.predictions == expected.predictions
    assert outcome.trained.loss == expected.trained.loss


@pytest.mark.parametrize("method, dropout", CASES)
def test_after_an_exception(method, dropout, whole, tmp_path):
    stopped(tmp_path, method, dropout)
    assert not (tmp_path / "run" / "metrics.csv").exists()
    steps = []
    outcome = train_small(tmp_path, method, dropout=dropout, on_step=steps.append)
    assert steps == [4, 5, 6, 7, 8], "continues from the last saved state"
    check_equal(outcome, whole(method, dropout))
    assert outcome.trained.earlier_seconds > 0


def test_after_a_kill(whole, tmp_path):
    words = [
        sys.executable,
        "-m",
        "tests.experiments.training.killed",
        tmp_path,
        "pgnn",
        0.3,
        torch.get_num_threads(),
    ]
    killed = subprocess.run(
        [str(word) for word in words], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert killed.returncode == -signal.SIGKILL
    steps = []
    outcome = train_small(tmp_path, "pgnn", dropout=0.3, on_step=steps.append)
    assert steps[0] == 4
    check_equal(outcome, whole("pgnn", 0.3))


@pytest.mark.slow
def test_in_bfloat16_too(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: True)
    expected = train_small(tmp_path / "whole", "full", dropout=0.3)
    stopped(tmp_path / "halves", "full", 0.3)
    check_equal(train_small(tmp_path / "halves", "full", dropout=0.3), expected)


def test_dropout_makes_a_difference(whole):
    assert whole("pgnn", 0.0).metrics != whole("pgnn", 0.3).metrics


def test_a_state_at_the_end_is_enough(whole, tmp_path):
    first = train_small(tmp_path)
    steps = []
    check_equal(train_small(tmp_path, on_step=steps.append), first)
    check_equal(first, whole("pgnn", 0.0))
    assert steps == []


def test_a_half_written_state_is_ignored(whole, tmp_path):
    stopped(tmp_path)
    half = tmp_path / "run" / STATES / "checkpoint-6"
    half.mkdir()
    (half / "trained.safetensors").write_bytes(b"half")
    assert last_state(tmp_path / "run").name == "checkpoint-3"
    steps = []
    check_equal(train_small(tmp_path, on_step=steps.append), whole("pgnn", 0.0))
    assert steps[0] == 4


def test_states_are_small_and_few(tmp_path):
    outcome = train_small(tmp_path)
    states = sorted(path.name for path in (tmp_path / "run" / STATES).iterdir())
    assert states == ["checkpoint-6", "checkpoint-8"]
    saved = (tmp_path / "run" / STATES / "checkpoint-8" / "trained.safetensors").stat().st_size
    trained = sum(weight.numel() for weight in outcome.weights.values()) * 4
    assert trained < saved < trained + 10_000, "the frozen model is not in it"
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"metrics.csv", STATES}


FILES = (
    "trained.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    SECONDS,
)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A folder with a run that stopped after a saved state."""
    folder = tmp_path_factory.mktemp("interrupted")
    patch = pytest.MonkeyPatch()
    patch.setattr(trainer, "SAVE_EVERY", 3)
    yield stopped(folder)
    patch.undo()


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_state_is_named_with_the_remedy(file, interrupted, tmp_path):
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    damaged = tmp_path / "run" / STATES / "checkpoint-3" / file
    damaged.write_bytes(b"no state" if file != SECONDS else b"")
    with pytest.raises(
        UserError, match="checkpoint-3 cannot be read .*: delete that folder and run again"
    ) as error:
        train_small(tmp_path)
    assert "\n" not in str(error.value)
    shutil.rmtree(damaged.parent)
    steps = []
    train_small(tmp_path, on_step=steps.append)
    assert steps[0] == 1, "the remedy works"


def line_without(lines, k):
    return [line for line in lines if line.get("step") != k]


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: [],
        lambda saved: None,
        lambda saved: {**saved, "global_step": 2},
        lambda saved: {**saved, "global_step": "3"},
        lambda saved: {**saved, "log_history": None},
        lambda saved: {**saved, "log_history": line_without(saved["log_history"], 2)},
        lambda saved: {**saved, "log_history": [{**line, "loss": None} for line in saved["log_history"]]},
        lambda saved: {
            **saved,
            "log_history": [{**line, "loss": float("nan")} for line in saved["log_history"]],
        },
    ],
)
def test_a_state_whose_log_is_damaged_is_named(change, interrupted, tmp_path):
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "run" / STATES / "checkpoint-3" / "trainer_state.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(UserError, match="checkpoint-3 cannot be read .*: delete that folder and run again"):
        train_small(tmp_path)


@pytest.mark.parametrize("shape", [(1,), ()])
def test_weights_of_another_shape_are_not_spread_over_the_right_ones(shape, interrupted, tmp_path):
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "run" / STATES / "checkpoint-3" / "trained.safetensors"
    save_file({name: torch.zeros(shape) for name in load_file(file)}, file)
    with pytest.raises(UserError, match="checkpoint-3 cannot be read .*has another shape"):
        train_small(tmp_path)


@pytest.mark.parametrize("file", ["trained.safetensors", "optimizer.pt", "trainer_state.json", SECONDS])
def test_a_full_disk_leaves_the_state_before(file, whole, tmp_path, monkeypatch):
    """Each library has its own error for it."""
    places = {
        "trained.safetensors": (states, "save_file"),
        "optimizer.pt": (torch, "save"),
        "trainer_state.json": (states.TrainerState, "save_to_json"),
        SECONDS: (states, "write_text"),
    }
    place, name = places[file]
    write, calls = getattr(place, name), []

    def refuse(*args, **options):
        calls.append(args)
        if "checkpoint-6" in str(args):
            raise RuntimeError("unexpected pos 64 vs 0\nlike PyTorch's")
        return write(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, refuse)
        with pytest.raises(
            UserError, match="checkpoint-6 cannot be saved .*: make room on the disk"
        ) as error:
            train_small(tmp_path)
    assert "\n" not in str(error.value) and calls
    assert os.listdir(tmp_path / "run" / STATES) == ["checkpoint-3"]
    check_equal(train_small(tmp_path), whole("pgnn", 0.0))


def test_an_error_of_training_is_not_taken_for_a_damaged_state(interrupted, tmp_path, monkeypatch):
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)

    def fail(*args, **options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(trainer, "token_losses", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        train_small(tmp_path)
