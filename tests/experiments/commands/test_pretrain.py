"""The pre-training command on a toy recipe: stop, go on, score, check, refuse."""

import errno
import json
import os
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch
from safetensors import SafetensorError

from experiments.base.lock import sole_use
from experiments.base.outputs import TRAINING_STATE, owner
from experiments.cli import main
from experiments.models import load_family
from experiments.studies.pretraining import run as training
from experiments.studies.pretraining import scoring
from experiments.studies.pretraining.minis import MINIS
from tests.experiments.studies.pretraining.small import small_blip, small_mplug


@pytest.fixture(autouse=True, scope="module")
def toy():
    """A model, steps and scores that take no time."""
    with pytest.MonkeyPatch.context() as patch:
        for name, small in (("mini-blip", small_blip), ("mini-mplug", small_mplug)):
            patch.setattr(MINIS[name], "build", small)
            patch.setattr(MINIS[name], "recipe", replace(MINIS[name].recipe, images=4))
        patch.setattr(training, "batches", lambda data, first: (data[k] for k in range(first, len(data))))
        patch.setattr(training, "LOG_STEPS", 1)
        patch.setattr(training, "SAVE_SECONDS", 0)
        patch.setattr(scoring, "SCENES", 5)
        patch.setattr(scoring, "KINDS", {kind: scoring.KINDS[kind] for kind in ("caption", "count")})
        yield


def pretrained(out, *words, steps=4):
    try:
        return main(["pretrain", "--quiet", "--out", str(out), "--steps", str(steps), *map(str, words)])
    except SystemExit as end:
        return end.code


def check_equal(folder, expected):
    """All files are the same but for times and dates, the logged losses too."""
    whole, resumed = (load_family(path).model.state_dict() for path in (expected, folder))
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name
    logs = [pd.read_csv(path / "training_log.csv")[["step", "loss"]] for path in (expected, folder)]
    assert logs[0].equals(logs[1]) and len(logs[0])
    assert {file.name for file in folder.iterdir()} == {file.name for file in expected.iterdir()}
    assert scoring.saved_scores(expected) == scoring.saved_scores(folder)


class Killed(BaseException):
    pass


def kill(*args, **options):
    raise Killed


def kill_in_step(patch, number):
    original, calls = training.text_loss, []

    def loss(*args):
        calls.append(1)
        return original(*args) if len(calls) < number else kill()

    patch.setattr(training, "text_loss", loss)


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """For each model, the folder of a run that nothing interrupts."""
    folders = {}
    for name in MINIS:
        folders[name] = tmp_path_factory.mktemp("whole") / "out"
        assert pretrained(folders[name], "--model", name) == 0
    return folders


@pytest.fixture
def killed(tmp_path):
    """The folder of a run of mini-BLIP that was killed in its third step."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_in_step(patch, 3)
        pretrained(tmp_path / "killed")
    return tmp_path / "killed"


PLACES = {  # where a run is killed, and the model
    "before anything": ("mini-blip", lambda patch: patch.setattr(MINIS["mini-blip"], "tokenizer", kill)),
    "in step 1": ("mini-mplug", lambda patch: kill_in_step(patch, 1)),
    "in step 3": ("mini-mplug", lambda patch: kill_in_step(patch, 3)),
    "while saving": ("mini-blip", lambda patch: patch.setattr(training, "published", kill)),
    "while scoring": ("mini-blip", lambda patch: patch.setattr(scoring, "skill_scores", kill)),
    "at the very end": ("mini-blip", lambda patch: patch.setattr(training.Path, "unlink", kill)),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_killed_run_goes_on_wherever_it_was(place, whole, tmp_path, monkeypatch):
    name, act = PLACES[place]
    with monkeypatch.context() as patch:
        act(patch)
        with pytest.raises(Killed):
            pretrained(tmp_path / "out", "--model", name)
    assert owner(tmp_path / "out") == "pretrain"
    assert pretrained(tmp_path / "out", "--model", name) == 0
    check_equal(tmp_path / "out", whole[name])


def test_a_finished_checkpoint_is_checked_and_not_trained_again(whole, tmp_path, capsys):
    for name, folder in whole.items():
        names = {file.name for file in folder.iterdir()}
        assert names == {*training.NAMES, "run.json"} - {TRAINING_STATE}
        assert main(["pretrain", "--check", "--out", str(folder)]) == 0, (
            "the folder says which model it holds"
        )
        assert capsys.readouterr().out.endswith("the scores agree\n")
        assert load_family(folder).name == {"mini-blip": "mini_blip", "mini-mplug": "mplug"}[name]
    assert pretrained(whole["mini-blip"]) == 2
    assert "finished checkpoint" in capsys.readouterr().err
    copy = shutil.copytree(whole["mini-blip"], tmp_path / "copy")
    scores = json.loads((copy / "scores.json").read_text())
    scores["scores"]["caption_loss"] += 1
    (copy / "scores.json").write_text(json.dumps(scores))
    assert main(["pretrain", "--check", "--out", str(copy)]) == 1


@pytest.mark.parametrize("damage", [b"", {}, "trained", "optimizer", "step"])
def test_a_damaged_state_is_named_with_the_remedy(damage, killed, capsys):
    file = killed / TRAINING_STATE
    if isinstance(damage, bytes):
        file.write_bytes(damage)
    else:
        state = torch.load(file, weights_only=True)
        torch.save({key: value for key, value in state.items() if key != damage} if damage else {}, file)
    assert pretrained(killed) == 2
    error = capsys.readouterr().err
    assert f"{file} cannot be read (" in error and "to begin anew" in error and error.count("\n") == 1


FULL = {
    "write_bytes": OSError(errno.ENOSPC, "No space left on device"),
    "published": SafetensorError("No space left on device"),
}


@pytest.mark.parametrize("name", FULL)
def test_a_full_disk_ends_the_run_in_one_line(name, killed, monkeypatch, capsys):
    def refuse(*args, **options):
        raise FULL[name]

    with monkeypatch.context() as patch:
        patch.setattr(training, name, refuse)
        assert pretrained(killed) == 2
    error = capsys.readouterr().err
    assert "cannot be saved to (" in error and "make room" in error and error.count("\n") == 1
    assert not [name for name in os.listdir(killed) if name.startswith(".")]
    assert pretrained(killed) == 0


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"scores": null}', '{"scores": {"a": null}}', '{"scores": {}}', "[" * 100_000]
    + ['{"run": [], "scores": {"a": 1}}', '{"run": {"model": "mini-clip"}, "scores": {"a": 1}}'],
)
def test_damaged_scores_of_a_checkpoint_are_named(content, tmp_path, capsys):
    (tmp_path / "scores.json").write_text(content)
    assert main(["pretrain", "--check", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "scores.json is damaged" in error and "run `attngraph pretrain` again" in error
    assert error.count("\n") == 1


def test_what_is_refused(killed, tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.json").write_text("something")
    for words, message in (
        (["--out", mine], "config.json is there already"),
        (["--out", killed, "--seed", 1], "other seed"),
        (["--out", killed, "--model", "mini-mplug"], "other model"),
        (["--out", killed, "--steps", 5], "other steps"),
        (["--steps", 0], "--steps"),
        (["--seed", -1], "--seed"),
        (["--device", "meta"], "--device meta"),
        (["--model", "mini-clip"], "mini-blip"),
        (["--check"], "changes nothing with --check"),
        (["--out", "/proc/out"], "/proc"),
    ):
        assert pretrained(tmp_path / "out", *words) == 2, words
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, words
    assert main(["pretrain", "--check", "--out", str(mine)]) == 2
    assert "scores.json not found" in capsys.readouterr().err
    with sole_use(killed):
        assert pretrained(killed) == 2
    assert "in use by another command" in capsys.readouterr().err
    assert (mine / "config.json").read_text() == "something" and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", MINIS)
def test_the_shipped_card_tells_the_shipped_scores(name):
    shipped = MINIS[name].checkpoint
    assert sum(file.stat().st_size for file in shipped.iterdir()) <= 8e6
    run, scores = json.loads((shipped / "scores.json").read_text()).values()
    card = (shipped / "README.md").read_text()
    assert f"--seed {run['seed']} --steps {run['steps']}" in card
    assert all(f"| {100 * value:.1f} % |" in card for key, value in scores.items() if "exact" in key)
    assert run["steps"] == MINIS[name].recipe.steps
