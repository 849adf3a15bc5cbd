"""The command `attngraph search`; what it tries is tested with the tuner."""

import pytest

from attngraph.experiments.cli import main


@pytest.mark.parametrize("name", ["search.csv", "search.md", "settings.yaml"])
def test_files_of_somebody_else_are_left_alone(name, tmp_path, capsys):
    (tmp_path / name).write_text("mine")
    assert main(["search", "--out", str(tmp_path)]) == 2
    assert f"{name} already exists and was not written by search" in capsys.readouterr().err
    assert {file.name: file.read_text() for file in tmp_path.iterdir() if file.is_file()} == {name: "mine"}


def test_missing_checkpoints_are_named_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["search", "--tasks", "vqa", "--out", "out"]) == 2
    assert "seed1, the checkpoint of pre-training seed 1, is missing" in capsys.readouterr().err
    assert not list(tmp_path.rglob("scores.json"))
