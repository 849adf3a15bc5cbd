"""The numbers of a run are shown elsewhere too; nothing is sent anywhere unasked."""

import importlib.util
import os
import sys
from unittest.mock import Mock

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from attngraph.errors import UserError
from experiments.runs import device
from experiments.runs.cells import run_cell
from experiments.runs.execution import Execution
from experiments.runs.experiment import Recipe
from experiments.runs.trackers import Tracking, trackers_of
from tests.experiments.runs.small import small_cell

EventAccumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator"
).EventAccumulator
VARIABLES = ("WANDB_MODE", "WANDB_ERROR_REPORTING", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_TRACKING_URI")
VARIABLES += ("WANDB_SILENT", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    """No variable of trackers is set, nor stays set."""
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: False)
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_none_stands_alone():
    assert trackers_of(("tensorboard",)) == ("tensorboard",) and trackers_of(("none",)) == ()
    with pytest.raises(UserError, match="--track none tensorboard: give trackers, or none"):
        trackers_of(("none", "tensorboard"))


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError, match="--track mlflow needs .*pip install mlflow"):
        trackers_of(("mlflow",))


def read(folder):
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_a_run_s_curves_are_its_files(tmp_path, monkeypatch):
    recipe = Recipe(1e-2, 4, batch_size=4, validate_every=2)
    cell = small_cell(tmp_path, monkeypatch, recipe)
    result = run_cell(cell, Execution(tmp_path, trackers=("tensorboard",)))
    folder = cell.folder(tmp_path)
    curves = read(folder)
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    for tag, column, digits in (("loss", 1, 1e-5), ("learning_rate", 2, 1e-6), ("gradient_norm", 3, 1e-3)):
        steps, values = zip(*curves[f"train/{tag}"])
        assert steps == (1, 2, 3, 4)
        assert values == pytest.approx([float(line[column]) for line in lines], abs=digits)
    scores = [line.split(",") for line in (folder / "validation.csv").read_text().splitlines()[1:]]
    expected = [(int(step), pytest.approx(float(score))) for step, score in scores]
    assert curves["validation/small.accuracy"] == expected and len(expected) == 2
    plain = run_cell(cell, Execution(tmp_path / "plain"))
    assert plain["loss"] == result["loss"] and plain["scores"] == result["scores"]
    assert not (cell.folder(tmp_path / "plain") / "tensorboard").exists()


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    told = []

    class Broken:
        def __init__(self, project, **options):
            pass

        def start(self):
            told.append("start")

        def store_init_configuration(self, about):
            told.append(about["method"])

        def log(self, numbers, step):
            told.append(step)
            if step == 2:
                raise RuntimeError("CUDA out of memory, says\nthe server")

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Broken)
    cell = small_cell(tmp_path, monkeypatch, Recipe(1e-2, 4, batch_size=4, validate_every=2))
    run_cell(cell, Execution(tmp_path, trackers=("wandb", "tensorboard")))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "wandb" in line]
    assert "pgnn small seed 3: wandb shows no more" in line and "RuntimeError: CUDA out of memory" in line
    assert told == ["start", "pgnn", 1, 2], "nothing after it failed"
    assert len(read(cell.folder(tmp_path))["train/loss"]) == 4, "the other one is told all"


def test_steps_that_are_done_again_are_shown_once(tmp_path):
    for begin, steps, loss in ((0, (1, 2, 3), 1.0), (2, (3,), 2.0)):
        tracking = Tracking(("tensorboard",), tmp_path, "a run", {})
        tracking.start(begin)
        for step in steps:
            tracking.tell(step, {"train/loss": loss})
        tracking.close()
    assert read(tmp_path)["train/loss"] == [(1, 1.0), (2, 1.0), (3, 2.0)]


FAKE = """
import os
def init(**options):
    print("offline" if os.environ["WANDB_MODE"] == "offline" else "sent", options["project"])
"""


@pytest.mark.parametrize("chosen", [{}, {"WANDB_MODE": "online", "WANDB_ERROR_REPORTING": "true"}])
def test_nothing_is_sent_or_reported_unless_the_user_says_so(chosen, tmp_path, monkeypatch, capsys):
    """Nor do W&B's logs and caches lie in the home folder."""
    (tmp_path / "wandb.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    Tracking(("wandb",), tmp_path / "run", "a run", {}).start(0)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "mlflow", lambda *words, **options: Mock())
    Tracking(("mlflow",), tmp_path / "run", "a run", {}).start(0)
    monkeypatch.delitem(sys.modules, "wandb")
    assert capsys.readouterr().out.startswith("sent attngraph" if chosen else "offline attngraph")
    found = {name: os.environ[name] for name in VARIABLES}
    assert found == {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}",
        **{f"WANDB_{kind}_DIR": str(tmp_path / "run" / "wandb") for kind in ("CACHE", "CONFIG", "DATA")},
        **chosen,
    }
