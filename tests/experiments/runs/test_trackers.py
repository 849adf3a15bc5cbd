"""The numbers of a run are shown elsewhere too; nothing is sent anywhere unasked."""

import os
import sys
from unittest.mock import Mock

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from attngraph.errors import UserError
from attngraph.experiments.runs import device
from attngraph.experiments.runs import train as training
from attngraph.experiments.runs.cells import run_cell
from attngraph.experiments.runs.execution import Execution
from attngraph.experiments.runs.trackers import UNLESS_SET, tracked, trackers_of
from tests.experiments.runs.small import cell, recipe_of, small_cell

EventAccumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator"
).EventAccumulator


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    """No variable of trackers is set, nor stays set."""
    monkeypatch.setattr(device, "uses_bfloat16", lambda name: False)
    for name in UNLESS_SET:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    assert trackers_of(("tensorboard",)) == ("tensorboard",) and trackers_of(("none",)) == ()
    monkeypatch.setattr("attngraph.extras.find_spec", lambda package: None)
    with pytest.raises(UserError, match=r"package mlflow is missing: pip install 'attngraph\[tracking\]'"):
        trackers_of(("mlflow",))


def test_a_run_s_curves_are_its_files_and_steps_that_are_done_again_are_shown_once(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    small = small_cell(tmp_path, monkeypatch, recipe_of(steps=4, batch_size=4, validate_every=2))
    run, folder = Execution(tmp_path, trackers=("tensorboard",)), small.folder(tmp_path)

    def interrupt(step):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cell(small, run, interrupt)
    run_cell(small, run)
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    curves = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    for tag, column, digits in (("loss", 1, 1e-5), ("learning_rate", 2, 1e-6), ("gradient_norm", 3, 1e-3)):
        steps, values = zip(*curves[f"train/{tag}"])
        assert steps == (1, 2, 3, 4)
        assert values == pytest.approx([float(line[column]) for line in lines], abs=digits)
    scores = [line.split(",") for line in (folder / "validation.csv").read_text().splitlines()[1:]]
    expected = [(int(step), pytest.approx(float(score))) for step, score in scores]
    assert curves["validation/small.accuracy"] == expected and len(expected) == 2


FAKE = """
import os
config = {}
class Run:
    config = type("Config", (), {"update": lambda *about, **how: None})()
    def finish(self):
        print("finished")
def init(**options):
    print("offline" if os.environ["WANDB_MODE"] == "offline" else "sent", options["project"])
    return Run()
"""


@pytest.mark.parametrize("chosen", [{}, {"WANDB_MODE": "online", "WANDB_ERROR_REPORTING": "true"}])
def test_nothing_is_sent_or_reported_unless_the_user_says_so(chosen, tmp_path, monkeypatch, capsys):
    """Nor do W&B's logs and caches lie in the home folder."""
    (tmp_path / "wandb.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    mlflow = Mock()
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "mlflow", lambda **options: mlflow)
    (tmp_path / "manifest.json").write_text("{}")
    about = cell(method="majority", data=tmp_path)
    with tracked(("wandb", "mlflow"), tmp_path / "run", about) as show:
        show_mlflow = mlflow.log
        monkeypatch.setattr(LOGGER_TYPE_TO_CLASS["wandb"], "log", lambda *numbers, **step: None)
        show(1, {"train/loss": 2.0})
    show_mlflow.assert_called_once_with({"train/loss": 2.0}, step=1)
    mlflow.store_init_configuration.assert_called_once_with(about.description())
    mlflow.finish.assert_called_once_with()
    monkeypatch.delitem(sys.modules, "wandb")
    assert capsys.readouterr().out.splitlines() == [
        f"{'sent' if chosen else 'offline'} attngraph",
        "finished",
    ]
    folder = tmp_path / "run"
    expected = {name: value.replace("{folder}", str(folder)) for name, value in UNLESS_SET.items()}
    assert {name: os.environ[name] for name in UNLESS_SET} == {**expected, **chosen}
    assert expected["WANDB_MODE"] == "offline" and expected["WANDB_DATA_DIR"] == f"{folder}/wandb"
