"""The numbers of a run are shown elsewhere too; nothing is sent anywhere unasked."""

import argparse
import importlib.util
import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from attngraph.errors import UserError
from experiments.training import device
from experiments.training.cells import run_cell
from experiments.training.execution import Execution
from experiments.training.recipe import Diverged, Recipe
from experiments.training.trackers import TRACKERS, Tracking, add_tracking_argument, trackers_of
from tests.experiments.training.small import small_cell, train_small

EventAccumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator"
).EventAccumulator


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: False)


def words(*given):
    parser = argparse.ArgumentParser()
    add_tracking_argument(parser)
    return parser.parse_args(given)


def test_tensorboard_is_the_default():
    assert trackers_of(words()) == ("tensorboard",)
    assert trackers_of(words("--track", "none")) == ()
    assert trackers_of(words("--track", "tensorboard", "tensorboard")) == ("tensorboard",)


def test_none_stands_alone():
    with pytest.raises(UserError, match="--track none tensorboard: give trackers, or none"):
        trackers_of(words("--track", "none", "tensorboard"))


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_named_with_the_command(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=f"--track {name} needs .*pip install {name}"):
        trackers_of(words("--track", name))


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
    assert (result["validations"], result["best_step"] in (2, 4)) == (2, True)
    plain = run_cell(cell, Execution(tmp_path / "plain"))
    assert plain["loss"] == result["loss"] and plain["scores"] == result["scores"]
    assert not (cell.folder(tmp_path / "plain") / "tensorboard").exists()


@pytest.mark.parametrize("when", ["begin", "log", "close"])
def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(when, tmp_path, monkeypatch, capsys):
    told = []

    class Broken:
        def __init__(self, *about):
            self.fail("begin")

        def fail(self, at):
            told.append(at)
            if at == when and told.count(at) == (2 if at == "log" else 1):
                raise RuntimeError("CUDA out of memory, says\nthe server")

        def log(self, step, numbers):
            self.fail("log")

        def close(self, failed):
            assert not failed
            self.fail("close")

    monkeypatch.setitem(TRACKERS, "broken", Broken)
    cell = small_cell(tmp_path, monkeypatch, Recipe(1e-2, 4, batch_size=4, validate_every=2))
    result = run_cell(cell, Execution(tmp_path, trackers=("broken", "tensorboard")))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "broken" in line]
    assert "pgnn small seed 3: broken shows no more" in line and "RuntimeError: CUDA out of memory" in line
    assert told[-1] == when and told.count(when) == (2 if when == "log" else 1), "nothing after it failed"
    assert len(read(cell.folder(tmp_path))["train/loss"]) == 4, "the other one is told all"
    plain = run_cell(cell, Execution(tmp_path / "plain"))
    assert plain["loss"] == result["loss"] and plain["scores"] == result["scores"]


def test_trackers_hear_that_a_run_failed(tmp_path, monkeypatch):
    told = []

    class Listening:
        def __init__(self, *about):
            pass

        def log(self, step, numbers):
            pass

        def close(self, failed):
            told.append(failed)

    monkeypatch.setitem(TRACKERS, "listening", Listening)
    cell = small_cell(tmp_path, monkeypatch, Recipe(1e-2, 4, batch_size=4))
    run_cell(cell, Execution(tmp_path / "run", trackers=("listening",)))
    cell = replace(cell, recipe=Recipe(1e30, 4, batch_size=4))
    with pytest.raises(Diverged):
        run_cell(cell, Execution(tmp_path / "again", trackers=("listening",)))
    assert told == [False, True]


def test_mlflow_ends_a_run_that_it_cannot_begin(tmp_path, monkeypatch):
    ended = []

    def log_param(run, key, value):
        raise RuntimeError("too long")

    client = SimpleNamespace(
        get_experiment_by_name=lambda name: SimpleNamespace(experiment_id=0),
        create_run=lambda *words, **more: SimpleNamespace(info=SimpleNamespace(run_id=7)),
        log_param=log_param,
        set_terminated=lambda *words: ended.append(words),
    )
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=lambda uri: client))
    with pytest.raises(RuntimeError, match="too long"):
        TRACKERS["mlflow"](tmp_path, "a run", {"seed": 0}, 0)
    assert ended == [(7, "FAILED")]


def test_steps_that_are_done_again_are_shown_once(tmp_path):
    def told(step):
        tracking = Tracking(("tensorboard",), tmp_path, "a run", {})
        state = argparse.Namespace(is_world_process_zero=True, global_step=step)
        tracking.on_train_begin(None, state, None)
        return tracking

    first = told(0)
    for step in (1, 2, 3):
        first.tell(step, {"train/loss": 1.0})
    first.close(failed=True)
    second = told(2)
    second.tell(3, {"train/loss": 2.0})
    second.close(failed=False)
    assert read(tmp_path)["train/loss"] == [(1, 1.0), (2, 1.0), (3, 2.0)]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_the_others_keep_what_they_are_told_in_the_folder(name, tmp_path, monkeypatch):
    pytest.importorskip(name)
    for variable in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    tracker = TRACKERS[name](tmp_path, "a run", {"seed": 0}, 0)
    tracker.log(1, {"train/loss": 0.5})
    tracker.close(failed=False)
    assert any(tmp_path.iterdir())


FAKES = {
    "wandb": """
import os
seen = dict(os.environ)
def Settings(**options): return None
def init(**options):
    seen.update(os.environ)
""",
    "mlflow": """
import os
from types import SimpleNamespace as New
seen = dict(os.environ)
def MlflowClient(uri):
    return New(
        get_experiment_by_name=lambda name: New(experiment_id=0),
        create_run=lambda *words, **more: New(info=New(run_id=0)),
    )
""",
}


@pytest.mark.parametrize(
    "name, variable, off",
    [("wandb", "WANDB_ERROR_REPORTING", "false"), ("mlflow", "MLFLOW_DISABLE_TELEMETRY", "true")],
)
def test_nothing_is_reported_to_makers_unless_the_user_says_so(name, variable, off, tmp_path, monkeypatch):
    """Nor do W&B's logs and caches lie in the home folder."""
    (tmp_path / f"{name}.py").write_text(FAKES[name])
    monkeypatch.syspath_prepend(tmp_path)
    for chosen in (None, "whatever"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delenv(variable, raising=False)
        if chosen is not None:
            monkeypatch.setenv(variable, chosen)
        before = dict(os.environ)
        TRACKERS[name](tmp_path / "run", "a run", {}, 0)
        assert sys.modules[name].seen[variable] == (chosen or off)
        if name == "wandb":
            folders = [sys.modules[name].seen[f"WANDB_{kind}_DIR"] for kind in ("CACHE", "CONFIG", "DATA")]
            assert folders == [str(tmp_path / "run" / "wandb")] * 3
        assert dict(os.environ) == before
    monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_sharded_runs_are_refused(variable, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(UserError, match=f"{variable} is set: runs do not take it"):
        train_small(tmp_path)
