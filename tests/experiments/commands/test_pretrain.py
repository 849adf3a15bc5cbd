"""The pre-training command on a toy recipe: stop, go on, score, check, refuse."""

import argparse
import json
from functools import partial

import pytest
import torch

from attngraph.errors import UserError
from experiments.commands import pretrain
from experiments.models.mini_blip import load_model
from experiments.pretraining import run as training
from experiments.pretraining import scoring
from experiments.pretraining.recipe import Recipe


def arguments(*words):
    parser = argparse.ArgumentParser()
    pretrain.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture
def toy(monkeypatch):
    small = partial(training.build_model, width=32, vision_layers=1, text_layers=1)
    monkeypatch.setattr(training, "build_model", small)
    monkeypatch.setattr(pretrain, "Recipe", partial(Recipe, images=4))
    monkeypatch.setattr(scoring, "SCENES", 5)
    monkeypatch.setattr(scoring, "KINDS", {kind: scoring.KINDS[kind] for kind in ("caption", "count")})


def interrupt_at(monkeypatch, step):
    """Ctrl-C while the step is being computed."""
    original, calls = training.text_loss, []

    def loss(*args):
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(training, "text_loss", loss)
    return lambda: monkeypatch.setattr(training, "text_loss", original)


def test_interrupted_run_ends_like_an_uninterrupted_one(toy, tmp_path, monkeypatch):
    assert pretrain.run(arguments("--out", tmp_path / "a", "--steps", 4)) == 0
    undo = interrupt_at(monkeypatch, 3)
    assert pretrain.run(arguments("--out", tmp_path / "b", "--steps", 4)) == 130
    undo()
    with pytest.raises(UserError, match="holds a run with"):
        pretrain.run(arguments("--out", tmp_path / "b", "--steps", 5))
    assert pretrain.run(arguments("--out", tmp_path / "b", "--steps", 4)) == 0
    whole, resumed = (load_model(tmp_path / name)[0].state_dict() for name in "ab")
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name
    files = {file.name for file in (tmp_path / "b").iterdir()}
    assert {"README.md", "loss.png", "training_log.csv", "scores.json", "model.safetensors"} <= files
    assert "training_state.pt" not in files
    with pytest.raises(UserError, match="finished checkpoint"):
        pretrain.run(arguments("--out", tmp_path / "b", "--steps", 4))
    assert pretrain.run(arguments("--check", tmp_path / "b")) == 0
    scores = json.loads((tmp_path / "b" / "scores.json").read_text())
    scores["scores"]["caption_loss"] += 1
    (tmp_path / "b" / "scores.json").write_text(json.dumps(scores))
    assert pretrain.run(arguments("--check", tmp_path / "b")) == 1


def test_bad_input_is_one_line(tmp_path):
    (tmp_path / "other").write_text("something")
    for words in (["--out", tmp_path], ["--steps", 0], ["--seed", -1], ["--check", tmp_path]):
        with pytest.raises(UserError) as error:
            pretrain.run(arguments(*words))
        assert "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["other"]
