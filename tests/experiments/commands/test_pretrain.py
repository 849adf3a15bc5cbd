"""The pre-training command on a toy recipe: stop, go on, score, check, refuse."""

import argparse
import json

import pytest
import torch

from attngraph.errors import UserError
from experiments.commands import pretrain
from experiments.models.mini_blip import load_model
from experiments.pretraining import model_card
from experiments.pretraining import scoring as skills


def arguments(*words):
    parser = argparse.ArgumentParser()
    pretrain.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture
def toy(monkeypatch):
    small = pretrain.build_model
    monkeypatch.setattr(
        pretrain, "build_model", lambda tokenizer: small(tokenizer, width=32, vision_layers=1, text_layers=1)
    )
    monkeypatch.setattr(pretrain, "IMAGES", 4)
    monkeypatch.setattr(skills, "SCENES", 5)
    monkeypatch.setattr(skills, "KINDS", {kind: skills.KINDS[kind] for kind in ("caption", "count")})


def interrupt_at(monkeypatch, step):
    """Ctrl-C while `step` is being computed."""
    original, calls = pretrain.text_loss, []

    def loss(*args):
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(pretrain, "text_loss", loss)
    return lambda: monkeypatch.setattr(pretrain, "text_loss", original)


def test_interrupted_run_ends_like_an_uninterrupted_one(toy, tmp_path, monkeypatch):
    assert pretrain.run(arguments("--out", tmp_path / "a", "--steps", 4)) == 0
    undo = interrupt_at(monkeypatch, 3)
    assert pretrain.run(arguments("--out", tmp_path / "b", "--steps", 4)) == 130
    undo()
    with pytest.raises(UserError, match="holds a run with"):
        pretrain.run(arguments("--out", tmp_path / "b", "--steps", 5))
    assert pretrain.run(arguments("--out", tmp_path / "b", "--steps", 4)) == 0
    one, other = (load_model(tmp_path / name)[0].state_dict() for name in "ab")
    for name in one:
        assert torch.allclose(one[name], other[name], atol=2e-3), name
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


def test_runs_with_other_seeds_are_columns_of_the_card(tmp_path):
    model, _ = load_model()
    saved = json.loads((pretrain.CHECKPOINT / "scores.json").read_text())
    other = {name: value - 0.031 for name, value in saved["scores"].items()}
    write = lambda: model_card.write_card(
        tmp_path, model, saved["run"], saved["scores"], [[1, 2.0, 3.0], [2, 1.0, 4.0]]
    )
    write()
    assert "other seeds" not in (tmp_path / "README.md").read_text()
    (tmp_path / "seed1.json").write_text(json.dumps({"scores": other}))
    write()
    card = (tmp_path / "README.md").read_text()
    assert "| prompt | seed 0 | seed 1 |" in card and "at most 0.031" in card
    assert (
        f"| count | {100 * saved['scores']['exact_count']:.1f} % | {100 * other['exact_count']:.1f} % |"
        in card
    )


def test_patch_loss_against_a_loop():
    torch.manual_seed(0)
    scores = torch.randn(2, 3, pretrain.SHAPE_CLASSES + pretrain.COLOR_CLASSES)
    batch = {
        "patch_shapes": torch.tensor([[0, 2, 1], [0, 0, 7]]),
        "patch_colors": torch.tensor([[0, 3, 1], [0, 0, 11]]),
    }
    loss = 0.0
    for image in range(2):
        for patch in range(3):
            shape, color = (
                scores[image, patch, : pretrain.SHAPE_CLASSES],
                scores[image, patch, pretrain.SHAPE_CLASSES :],
            )
            loss -= shape.log_softmax(0)[batch["patch_shapes"][image, patch]] / 6
            loss -= color.log_softmax(0)[batch["patch_colors"][image, patch]] / 6
    assert torch.allclose(pretrain.patch_loss(scores, batch), loss)


def test_bad_input_is_one_line(tmp_path):
    (tmp_path / "other").write_text("something")
    for words in (["--out", tmp_path], ["--steps", 0], ["--seed", -1], ["--check", tmp_path]):
        with pytest.raises(UserError) as error:
            pretrain.run(arguments(*words))
        assert "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["other"]


def test_schedule():
    assert pretrain.schedule(0, 1000) == pytest.approx(1 / pretrain.WARMUP_STEPS)
    assert pretrain.schedule(pretrain.WARMUP_STEPS, 1000) == 1
    assert pretrain.schedule(1000, 1000) == pytest.approx(0.01)
