"""The pre-training command on a toy recipe: train, score, check, refuse."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from attngraph.experiments.cli import main
from attngraph.experiments.models import load_family
from attngraph.experiments.studies import pretrain as study
from attngraph.experiments.studies.pretrain import MINIS
from tests.experiments.studies.small import small_blip, small_mplug


@pytest.fixture(autouse=True, scope="module")
def toy():
    """A model, steps and scores that take no time."""
    with pytest.MonkeyPatch.context() as patch:
        for name, small in (("mini-blip", small_blip), ("mini-mplug", small_mplug)):
            patch.setattr(MINIS[name], "build", small)
            patch.setattr(MINIS[name], "recipe", replace(MINIS[name].recipe, images=4))
        patch.setattr(study, "DataLoader", lambda data, **_: map(data.__getitem__, range(len(data))))
        patch.setattr(study, "SCENES", 5)
        patch.setattr(study, "KINDS", {kind: study.KINDS[kind] for kind in ("caption", "count")})
        yield


def pretrained(out, *words):
    try:
        return main(["pretrain", "--quiet", "--out", str(out), "--steps", "3", *map(str, words)])
    except SystemExit as end:
        return end.code


@pytest.fixture(scope="module")
def made(toy, tmp_path_factory):
    """The folder of each model."""
    folders = {name: tmp_path_factory.mktemp("made") / "out" for name in MINIS}
    assert not any(pretrained(folder, "--model", name) for name, folder in folders.items())
    return folders


def test_a_checkpoint_is_whole_and_checked(made, tmp_path, capsys):
    for name, folder in made.items():
        written = {file.name for file in folder.iterdir()} | {"generation_config.json"}  # which only BLIP has
        assert written == {*study.NAMES, "run.json"}
        assert main(["pretrain", "--check", "--out", str(folder)]) == 0, (
            "the folder says which model it holds"
        )
        assert capsys.readouterr().out.endswith("the scores agree\n")
        assert load_family(folder).name == {"mini-blip": "mini_blip", "mini-mplug": "mplug"}[name]
    copy = shutil.copytree(made["mini-blip"], tmp_path / "copy")
    scores = json.loads((copy / "scores.json").read_text())
    scores["scores"]["caption_loss"] += 1
    (copy / "scores.json").write_text(json.dumps(scores))
    assert main(["pretrain", "--check", "--out", str(copy)]) == 1


def test_the_same_seed_gives_the_same_weights(made, tmp_path):
    assert pretrained(tmp_path) == 0
    weights, again = (load_family(path).model.state_dict() for path in (made["mini-blip"], tmp_path))
    assert all(torch.equal(value, again[name]) for name, value in weights.items())


@pytest.mark.parametrize(
    ("content", "message"), [('{"scores": {"a": null}}', "field scores.a"), (None, "no such file")]
)
def test_damaged_scores_of_a_checkpoint_are_named(content, message, tmp_path, capsys):
    if content is not None:
        (tmp_path / "scores.json").write_text(content)
    assert main(["pretrain", "--check", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and "finished `attngraph pretrain`" in error


def test_what_is_refused(made, tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.json").write_text("something")
    for words, message in (
        (["--out", mine], "config.json already exists"),
        (["--out", made["mini-blip"], "--seed", 1], "other seed"),
        (["--device", "meta"], "--device meta"),
        (["--check"], "has no effect with --check"),
    ):
        assert pretrained(tmp_path / "out", *words) == 2, words
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, words
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
