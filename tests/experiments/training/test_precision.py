"""The precision of training's passes."""

import json
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from attngraph.errors import UserError
from experiments.training import device, made_with, trainer
from experiments.training.cells import is_finished, run_cell
from experiments.training.execution import Execution
from tests.experiments.training.small import RECIPE, small_cell, train_small


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


def test_what_accelerate_launch_says_of_precision_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    dtypes, plain = [], trainer.token_losses
    monkeypatch.setattr(trainer, "token_losses", lambda x, *more: dtypes.append(x.dtype) or plain(x, *more))
    train_small(tmp_path, recipe=replace(RECIPE, steps=1, precision="float32"))
    assert dtypes == [torch.float32]


def test_a_run_that_goes_on_in_another_precision_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "SAVE_EVERY", 2)
    cell, run = small_cell(tmp_path, monkeypatch), Execution(tmp_path)
    config = cell.folder(tmp_path) / "config.json"

    def interrupt(step):
        if step == 3:
            raise KeyboardInterrupt

    for half in (True, True, False):
        monkeypatch.setattr(device, "uses_bfloat16", lambda name, half=half: half)
        assert "before" not in (json.loads(config.read_text()) if config.exists() else {})
        with suppress(KeyboardInterrupt):
            run_cell(cell, run, on_step=interrupt if half else lambda step: None)
    found = json.loads(config.read_text())
    about = {"versions": found["versions"], "machine": found["machine"]}
    began = {"device": "cpu", "precision": "bfloat16 autocast", **about}
    assert found["precision"] == "float32" and found["before"] == [began]
    assert capsys.readouterr().err.count("what began in bfloat16 autocast on cpu") == 1
    assert is_finished(cell, run)


def test_a_run_that_goes_on_with_other_code_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "SAVE_EVERY", 2)
    cell, run = small_cell(tmp_path, monkeypatch), Execution(tmp_path)

    def interrupt(step):
        if step == 3:
            raise KeyboardInterrupt

    for digest in ("one", "one", "two"):
        monkeypatch.setattr(made_with, "DIGEST", digest)
        with suppress(KeyboardInterrupt):
            run_cell(cell, run, on_step=interrupt if digest == "one" else lambda step: None)
    found = json.loads((cell.folder(tmp_path) / "config.json").read_text())
    assert [part["versions"]["code"] for part in [*found["before"], found]] == ["one", "two"]
    assert capsys.readouterr().err.count("goes on with other code or packages") == 1
    assert is_finished(cell, run)
