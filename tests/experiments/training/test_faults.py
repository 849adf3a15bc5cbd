"""What can go wrong in the middle of a run ends it with one line, and leaves what goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attngraph.errors import UserError
from experiments.cli import main
from experiments.training import device, trainer
from experiments.training.cells import run_cell
from experiments.training.execution import Execution
from experiments.training.recipe import Diverged, Recipe
from experiments.training.states import STATES, last_state
from experiments.training.trainer import train
from tests.experiments.training.small import RECIPE, small_cell, small_run, train_small

ROOT = Path(__file__).parents[3]
LIMITED = """
import resource, sys
from pathlib import Path
from experiments.errors import first_line
from experiments.training import device, trainer
from attngraph.errors import UserError
from tests.experiments.training.small import train_small
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
device.uses_bfloat16 = lambda name: False
trainer.SAVE_EVERY = 3
def limit(step):
    if step == 4:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
try:
    train_small(Path(sys.argv[1]), on_step=limit)
except UserError as error:
    sys.exit(f"attngraph: {error}")
"""


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(trainer, "SAVE_EVERY", 3)
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: False)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of file sizes")
def test_files_that_the_system_refuses_to_grow(tmp_path):
    """The system's own refusal, in the middle of a file."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    said = [line for line in done.stderr.splitlines() if "attngraph: " in line]
    assert done.returncode == 1 and len(said) == 1 and "Traceback" not in done.stderr, done.stderr
    assert "checkpoint-6 cannot be saved" in said[0] and "make room on the disk" in said[0]
    assert os.listdir(tmp_path / "run" / STATES) == ["checkpoint-3"]
    steps = []
    outcome = train_small(tmp_path, on_step=steps.append)
    expected = train_small(tmp_path / "whole")
    assert steps[0] == 4
    assert all(torch.equal(weight, outcome.weights[name]) for name, weight in expected.weights.items())


@pytest.mark.parametrize("what", ["loss", "weight"])
def test_numbers_that_are_not_finite_leave_the_last_good_state(what, tmp_path):
    tuned, data = small_run(tmp_path)

    def spoil(step):
        if what == "loss" and step == 4:
            data.family.model.text_decoder.cls.predictions.bias.data.fill_(float("nan"))
        if what == "weight" and step == 6:  # the state of this step is not saved yet
            next(iter(tuned.parameters().values())).data.fill_(float("inf"))

    with pytest.raises(
        Diverged, match=rf"a?.*{what} is not finite at step .*lower the learning rate \(0.01\)"
    ):
        train(tuned, data, RECIPE, 5, tmp_path / "run", spoil)
    assert last_state(tmp_path / "run").name == "checkpoint-3"
    assert os.listdir(tmp_path / "run" / STATES) == ["checkpoint-3"]
    steps = []
    train_small(tmp_path, on_step=steps.append)
    assert steps == [4, 5, 6, 7, 8]


def test_a_picture_that_vanishes_in_the_middle(tmp_path, monkeypatch):
    """It is named, and the run goes on from its last state."""
    cell = small_cell(tmp_path, monkeypatch, Recipe(1e-2, 8, batch_size=4, validate_every=4))
    run, steps = Execution(tmp_path, cache_gb=0), []
    picture, away = tmp_path / "pictures" / "2.png", tmp_path / "away.png"
    monkeypatch.setattr(trainer, "loader_options", lambda *_: {})

    def vanish(step):
        steps.append(step)
        if step == 3:
            picture.rename(away)

    with pytest.raises(UserError, match="2.png") as error:
        run_cell(cell, run, on_step=vanish)
    assert "\n" not in str(error.value)
    assert last_state(cell.folder(tmp_path)).name in ("checkpoint-3", "checkpoint-6")
    away.rename(picture)
    again = []
    result = run_cell(cell, run, on_step=again.append)
    assert again[0] in (4, 7) and result["examples"] == 8
    whole = run_cell(cell, Execution(tmp_path / "whole", cache_gb=0))
    assert result["loss"] == whole["loss"] and result["scores"] == whole["scores"]


def test_a_missing_gpu_is_one_line(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    words = ["train", "--set", "method=pgnn", "--set", "task=easy_vqa", "--device", "cuda"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--device cuda is not available here" in line and "use cpu" in line
    assert not (tmp_path / "out").exists()
