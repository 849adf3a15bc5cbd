"""The pre-training command on a toy recipe: stop, go on, score, check, refuse."""

import argparse
import errno
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import BertTokenizerFast

from attngraph.errors import UserError
from experiments.commands import pretrain
from experiments.models import load_family
from experiments.outputs import TRAINING_STATE, owner
from experiments.pretraining import run as training
from experiments.pretraining import scoring
from experiments.pretraining.minis import MINIS
from experiments.training.lock import LOCK, sole_use
from tests.experiments.pretraining.small import small_blip, small_mplug


def arguments(*words):
    parser = argparse.ArgumentParser()
    pretrain.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture(autouse=True, scope="module")
def toy():
    """A model, steps and scores that take no time."""
    with pytest.MonkeyPatch.context() as patch:
        for name, small in (("mini-blip", small_blip), ("mini-mplug", small_mplug)):
            patch.setattr(MINIS[name], "build", small)
            patch.setattr(MINIS[name], "recipe", replace(MINIS[name].recipe, images=4))
        patch.setattr(training, "batches", lambda data, first: (data[k] for k in range(first, len(data))))
        patch.setattr(training, "LOG_STEPS", 1)
        patch.setattr(scoring, "SCENES", 5)
        patch.setattr(scoring, "KINDS", {kind: scoring.KINDS[kind] for kind in ("caption", "count")})
        yield


def at_step(monkeypatch, step, act):
    """Do something while a step is being computed; returns how to undo that."""
    original, calls = training.text_loss, []

    def loss(*args):
        calls.append(1)
        if len(calls) == step:
            act()
        return original(*args)

    monkeypatch.setattr(training, "text_loss", loss)
    return lambda: monkeypatch.setattr(training, "text_loss", original)


def asks_to_stop(number):
    return lambda: signal.raise_signal(number)


def pretrained(out, *words, steps=4):
    return pretrain.run(arguments("--out", out, "--steps", steps, *words))


def check_equal(folder, expected):
    """All files are the same but for times and dates, the logged losses too."""
    whole, resumed = (load_family(path).model.state_dict() for path in (expected, folder))
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name
    logs = [pd.read_csv(path / "training_log.csv")[["step", "loss"]] for path in (expected, folder)]
    assert logs[0].equals(logs[1]) and len(logs[0])
    assert {file.name for file in folder.iterdir()} == {file.name for file in expected.iterdir()}
    scores = [scoring.saved_scores(path) for path in (expected, folder)]
    assert scores[0] == scores[1]


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """The folder of a run that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert pretrained(out) == 0
    return out


@pytest.fixture(scope="module")
def stopped_once(toy, tmp_path_factory):
    out = tmp_path_factory.mktemp("stopped") / "out"
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 2, asks_to_stop(signal.SIGTERM))
        assert pretrained(out, "--threads", 1) == 143
    return out


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """The folder of a run that was stopped after its second step."""
    return Path(shutil.copytree(stopped_once, tmp_path / "stopped"))


def test_its_folder_is_known(whole, stopped):
    assert owner(whole) == owner(stopped) == "pretrain"


@pytest.mark.usefixtures("handled_signals")
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_stopped_run_ends_like_an_unstopped_one(number, code, whole, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    undo = at_step(monkeypatch, 3, asks_to_stop(number))
    assert pretrained(out) == code
    undo()
    assert capsys.readouterr().err.splitlines()[-1] == (
        "stopped after step 3; the same command goes on from there"
    ), "the step in hand is finished: half of it would be done twice"
    assert TRAINING_STATE in os.listdir(out) and LOCK not in os.listdir(out)
    with pytest.raises(UserError, match=r"holds a run with other steps \(4\)"):
        pretrained(out, steps=5)
    assert pretrained(out) == 0
    check_equal(out, whole)
    assert {"README.md", "loss.png", "training_log.csv", "scores.json", "model.safetensors"} <= set(
        os.listdir(out)
    )
    assert TRAINING_STATE not in os.listdir(out)


@pytest.mark.parametrize(
    "where", ["before anything", "before the tokenizer", "in step 1", "while saving", "in the card"]
)
def test_a_killed_run_goes_on_wherever_it_was(where, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"

    class Killed(BaseException):
        pass

    def kill(*args, **options):
        raise Killed

    with monkeypatch.context() as patch:
        if where == "before anything":
            patch.setattr(MINIS["mini-blip"], "tokenizer", kill)
        elif where == "before the tokenizer":
            patch.setattr(BertTokenizerFast, "save_pretrained", kill)
        elif where == "in step 1":
            at_step(patch, 1, kill)
        elif where == "while saving":
            patch.setattr(training, "SAVE_SECONDS", 0)
            patch.setattr(training, "published", kill)
        else:
            patch.setattr(training.model_card, "_plot", kill)
        with pytest.raises(Killed):
            pretrained(out)
    assert pretrained(out) == 0
    check_equal(out, whole)


def test_a_finished_checkpoint_is_checked_and_not_trained_again(whole, tmp_path, capsys):
    whole = shutil.copytree(whole, tmp_path / "copy")
    with pytest.raises(UserError, match="finished checkpoint"):
        pretrained(whole)
    assert pretrain.run(arguments("--check", whole)) == 0
    shown = capsys.readouterr()
    assert "scoring" in shown.err and shown.out.endswith("the scores agree\n")
    scores = json.loads((whole / "scores.json").read_text())
    scores["scores"]["caption_loss"] += 1
    (whole / "scores.json").write_text(json.dumps(scores))
    assert pretrain.run(arguments("--check", whole)) == 1


def test_a_run_keeps_its_threads(stopped, monkeypatch):
    with pytest.raises(UserError, match=r"holds a run with other threads \(1\); choose another --out"):
        pretrained(stopped, "--threads", 2)
    before, chosen = torch.get_num_threads(), []
    state = torch.load(stopped / TRAINING_STATE, weights_only=True)
    state["settings"]["threads"] = 7
    torch.save(state, stopped / TRAINING_STATE)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    assert pretrained(stopped) == 0 and chosen == [before, 7, 7, before]


def test_mini_mplug_is_pre_trained_by_the_same_command(tmp_path, monkeypatch, capsys):
    """In runs/NAME unless told otherwise; stopped, it goes on to the same bits; it is scored and checked."""
    monkeypatch.chdir(tmp_path)
    words = ("--model", "mini-mplug", "--steps", 4, "--threads", 1)
    assert pretrain.run(arguments(*words)) == 0
    whole, out = tmp_path / "runs" / "mini-mplug", tmp_path / "out"
    undo = at_step(monkeypatch, 2, asks_to_stop(signal.SIGTERM))
    assert pretrain.run(arguments(*words, "--out", out)) == 143
    undo()
    with pytest.raises(UserError, match=r"holds a run with other model \(mini-mplug\)"):
        pretrained(out, "--threads", 1)
    assert pretrain.run(arguments(*words, "--out", out)) == 0
    assert "model shards" not in capsys.readouterr().err, "transformers' own bar"
    check_equal(out, whole)
    family = load_family(whole)
    assert family.name == "mplug" and family.tokenizer.bos_token == "[CLS]"
    assert pretrain.run(arguments("--check", whole)) == 0, "the folder says which model it holds"
    assert capsys.readouterr().out.endswith("the scores agree\n")
    card = (whole / "README.md").read_text()
    assert (
        card.startswith("# mini-mPLUG\n")
        and "attngraph pretrain --model mini-mplug --seed 0 --steps 4" in card
    )


def test_a_stop_that_ends_the_process_of_the_batches_first(whole, tmp_path, monkeypatch, capsys):
    """PyTorch then raises an error wherever the step happens to be; a state in its midst would be wrong."""

    def both_end():
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")

    out = tmp_path / "out"
    undo = at_step(monkeypatch, 3, both_end)
    assert pretrained(out) == 143
    assert "goes on from the last state that was saved" in capsys.readouterr().err
    assert torch.load(out / TRAINING_STATE, weights_only=True)["step"] == 0
    undo()
    assert pretrained(out) == 0
    check_equal(out, whole)


def test_a_state_that_names_no_model_is_mini_blips(stopped, whole):
    """Former versions had no other."""
    state = torch.load(stopped / TRAINING_STATE, weights_only=True)
    del state["settings"]["model"]
    torch.save(state, stopped / TRAINING_STATE)
    assert pretrained(stopped) == 0
    check_equal(stopped, whole)


def test_a_model_that_is_none_of_these_is_refused(capsys):
    with pytest.raises(SystemExit):
        arguments("--model", "mini-clip")
    assert "mini-blip" in capsys.readouterr().err


def changed(**changes):
    return lambda state: {**state, **changes}


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"no state",
        lambda state: [],
        lambda state: {},
        changed(settings=None),
        changed(step="2"),
        changed(step=99),
        changed(running=None),
        changed(running=float("nan")),
        changed(log=[[1.0]]),
        changed(log=None),
        changed(trained={}),
        changed(optimizer={}),
    ],
)
def test_a_damaged_state_is_named_with_the_remedy(damage, stopped):
    file = stopped / TRAINING_STATE
    if isinstance(damage, bytes):
        file.write_bytes(damage)
    else:
        torch.save(damage(torch.load(file, weights_only=True)), file)
    with pytest.raises(UserError) as error:
        pretrained(stopped)
    assert f"{file} cannot be read (" in str(error.value) and "to begin anew" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("full", ["state", "model"])
def test_a_full_disk_ends_the_run_in_one_line_with_the_state_before(full, stopped, monkeypatch):
    before = (stopped / TRAINING_STATE).read_bytes()

    def refuse(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(training, "SAVE_SECONDS", 0)
        patch.setattr(*((training, "write_bytes") if full == "state" else (training, "published")), refuse)
        with pytest.raises(
            UserError, match=r"cannot be saved to \(OSError: .*No space left .*make room"
        ) as error:
            pretrained(stopped)
    assert "\n" not in str(error.value)
    assert ((stopped / TRAINING_STATE).read_bytes() == before) == (full == "state")
    assert not [name for name in os.listdir(stopped) if name.startswith(".")]
    assert pretrained(stopped) == 0


def test_two_at_a_time_are_refused(tmp_path):
    with sole_use(tmp_path / "out"), pytest.raises(UserError, match="in use by another command"):
        pretrained(tmp_path / "out")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "null",
        '{"scores": null}',
        '{"scores": []}',
        '{"scores": {"a": null}}',
        '{"scores": {}}',
        '{"run": [], "scores": {"a": 1}}',
        '{"run": {"model": "mini-clip"}, "scores": {"a": 1}}',
        "[" * 100_000,
    ],
)
def test_damaged_scores_of_a_checkpoint_are_named(content, tmp_path):
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(UserError, match="scores.json is damaged .*run `attngraph pretrain` again") as error:
        pretrain.run(arguments("--check", tmp_path))
    assert "\n" not in str(error.value)


def test_bad_input_is_one_line(tmp_path):
    (tmp_path / "other").write_text("something")
    for words in (
        ["--out", tmp_path],
        ["--steps", 0],
        ["--seed", -1],
        ["--seed", 2**63],
        ["--threads", 1_000_000],
        ["--device", "meta"],
        ["--check", tmp_path],
        ["--check", "--steps", 5],
        ["--check", tmp_path, "--model", "mini-mplug"],
        ["--out", "/proc/out"],
    ):
        with pytest.raises(UserError) as error:
            pretrain.run(arguments(*words))
        assert "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["other"]
