"""A run replaces what a run like it wrote, and nothing else."""

import json
import os
from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.base.outputs import MANIFEST, Outputs, check_folder, owner

NAMES = ("table.csv", "map_*.png")


def outputs(folder: Path, command: str = "tsne", **settings) -> Outputs:
    return Outputs(folder, command, settings, NAMES)


def write(folder: Path, *names: str, text: str = "new", **settings) -> None:
    with outputs(folder, **settings).writing() as part:
        for name in names:
            (part / name).write_text(text)


def held(folder: Path) -> dict[str, str]:
    """The folder's files and their content, but for the manifest."""
    return {file.name: file.read_text() for file in folder.iterdir() if file.name != MANIFEST}


def test_a_run_leaves_a_manifest(tmp_path):
    write(tmp_path / "out", "table.csv", "map_a.png", seed=0)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert manifest["command"] == "tsne" and manifest["settings"] == {"seed": 0}
    assert manifest["files"] == ["map_a.png", "table.csv"]


def test_the_same_run_replaces_its_files_and_removes_those_that_it_no_longer_writes(tmp_path):
    write(tmp_path, "table.csv", "map_a.png", text="old")
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path, "table.csv", "map_b.png")
    assert held(tmp_path) == {"table.csv": "new", "map_b.png": "new", "notes.txt": "mine"}
    write(tmp_path, "table.csv", "map_b.png", "map_a.png")
    assert set(held(tmp_path)) == {"table.csv", "map_b.png", "map_a.png", "notes.txt"}


def test_files_of_somebody_else_are_refused_before_anything_is_written(tmp_path):
    name = "map_of_the_town.png"  # which a pattern means
    (tmp_path / name).write_text("mine")
    for refused in (outputs(tmp_path).check, outputs(tmp_path).claim, lambda: write(tmp_path, "table.csv")):
        with pytest.raises(
            UserError, match=f"{name} is there already, and no run.json .* another --out"
        ) as error:
            refused()
        assert "\n" not in str(error.value)
    assert held(tmp_path) == {name: "mine"} and not (tmp_path / MANIFEST).exists()


def test_a_name_that_no_pattern_tells_and_that_comes_up_while_the_run_works(tmp_path):
    (tmp_path / "other.txt").write_text("mine")
    with pytest.raises(UserError, match="other.txt is there already"):
        write(tmp_path, "other.txt")
    with pytest.raises(UserError, match="table.csv is there already"), outputs(tmp_path).writing() as part:
        (part / "table.csv").write_text("new")
        (tmp_path / "table.csv").symlink_to("nowhere")
    assert (tmp_path / "other.txt").read_text() == "mine"
    assert os.readlink(tmp_path / "table.csv") == "nowhere" and not (tmp_path / MANIFEST).exists()


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"seed": 0, "model": "b"}, "other model"),
        ({}, "other seed"),
        ({"command": "bench", "seed": 0}, "of `attngraph tsne`"),
    ],
)
def test_another_experiment_is_refused(tmp_path, other, why):
    write(tmp_path, "table.csv", text="old", seed=0)
    for refused in (outputs(tmp_path, **other).check, lambda: write(tmp_path, "table.csv", **other)):
        with pytest.raises(UserError, match=rf"holds another experiment \({why}\): give .* or move that fol"):
            refused()
    assert held(tmp_path) == {"table.csv": "old"}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"name": "my project"}',
        '{"command": "tsne", "settings": [], "files": []}',
        '{"command": "tsne", "settings": {}, "files": ["../table.csv"]}',
        "[" * 100_000,
    ],
)
def test_what_is_no_manifest_is_refused_and_stays(tmp_path, text):
    out = tmp_path / "out"
    write(out, "table.csv", text="old")
    (tmp_path / "table.csv").write_text("mine")
    (out / MANIFEST).write_text(text)
    with pytest.raises(UserError, match="run.json is no record of a run .*, or move it away") as error:
        write(out, "table.csv")
    assert "\n" not in str(error.value) and (out / MANIFEST).read_text() == text
    assert held(out) == {"table.csv": "old"} and (tmp_path / "table.csv").read_text() == "mine"


def test_an_interrupted_run_leaves_everything_as_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt), outputs(tmp_path / "new").writing() as part:
        (part / "table.csv").write_text("half")
        raise KeyboardInterrupt
    assert not (tmp_path / "new").exists()
    out = tmp_path / "out"
    write(out, "table.csv", text="old")
    manifest = (out / MANIFEST).read_text()
    with pytest.raises(KeyboardInterrupt), outputs(out).writing() as part:
        (part / "table.csv").write_text("half")
        raise KeyboardInterrupt
    assert held(out) == {"table.csv": "old"} and (out / MANIFEST).read_text() == manifest


def test_a_run_cut_off_while_its_files_move_can_be_run_again(tmp_path, monkeypatch):
    write(tmp_path, "table.csv", "map_old.png", text="old")
    moved = []

    def stops_at_the_second(source, target):
        if len(moved) == 2:  # the manifest and the first file
            raise KeyboardInterrupt
        moved.append(rename(source, target))

    rename = os.replace
    with pytest.raises(KeyboardInterrupt), outputs(tmp_path).writing() as part:
        for name in ("map_a.png", "map_b.png", "table.csv"):
            (part / name).write_text("new")
        monkeypatch.setattr("experiments.base.files.os.replace", stops_at_the_second)
    monkeypatch.undo()
    seen = {file.name: file.read_text() for pattern in NAMES for file in tmp_path.glob(pattern)}
    assert seen == {"map_a.png": "new", "map_old.png": "old", "table.csv": "old"}
    write(tmp_path, "map_a.png", "table.csv", text="newer")
    assert {file.name for file in tmp_path.glob("[!.]*")} == {"map_a.png", "table.csv", MANIFEST}


@pytest.mark.parametrize("how", ["before", "meanwhile", "no longer written"])
def test_a_folder_under_a_files_name_changes_nothing(tmp_path, how):
    write(tmp_path, "map_a.png", "table.csv", text="old")
    manifest = (tmp_path / MANIFEST).read_text()
    if how == "meanwhile":
        attempt = pytest.raises(UserError, match="table.csv is no file: move it away")
        with attempt, outputs(tmp_path).writing() as part:
            for name in ("map_a.png", "table.csv"):
                (part / name).write_text("new")
            (tmp_path / "table.csv").unlink()
            (tmp_path / "table.csv").mkdir()
    else:
        (tmp_path / "table.csv").unlink()
        (tmp_path / "table.csv").mkdir()
        with pytest.raises(UserError, match="table.csv is no file: move it away"):
            write(tmp_path, "map_a.png", *(["table.csv"] if how == "before" else []))
    assert {file.name for file in tmp_path.iterdir()} == {"map_a.png", "table.csv", MANIFEST}
    assert (tmp_path / "map_a.png").read_text() == "old" and (tmp_path / MANIFEST).read_text() == manifest


def test_nobody_else_works_in_the_folder_meanwhile(tmp_path):
    out = tmp_path / "deep" / "out"
    with outputs(out).alone():
        for other in (outputs(out), outputs(out, seed=1)):
            with pytest.raises(UserError, match="out is in use by another command"), other.alone():
                pytest.fail("two at a time")
    assert not out.parent.exists()


#: What folders without a manifest hold, and the command that made them.
MADE = [
    ("scenes", ["manifest.json", "vqa_v2/scenes.json"]),
    ("ablation", ["cells/gcn/vqa/seed0/config.json", "data/manifest.json"]),
    ("ablation", ["results.json", "ablation.csv", "ablation.md"]),
    ("ablation", ["config.json", "scores.json", "predictions.json", "statistics.npz"]),
    ("pretrain", ["config.json", "scores.json", "tokenizer.json"]),
    (None, ["manifest.json"]),
    (None, ["cells/notes.txt"]),
    (None, ["config.json", "model.safetensors"]),
    (None, []),
]


@pytest.mark.parametrize(("command", "files"), MADE)
def test_folders_of_other_commands_are_known_by_what_they_hold(tmp_path, command, files):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert owner(tmp_path) == command
    check_folder(tmp_path, command or "tsne")
    if command is not None:
        with pytest.raises(UserError, match=rf"another experiment \(of `attngraph {command}`\): give anoth"):
            check_folder(tmp_path, "tsne")


def test_the_manifest_counts_more_than_what_a_folder_holds(tmp_path):
    outputs(tmp_path, "search").claim()
    (tmp_path / "cells" / "gcn" / "vqa" / "seed0").mkdir(parents=True)
    assert owner(tmp_path) == "search"


def test_claimed_names_belong_to_the_run(tmp_path):
    claimed = Outputs(tmp_path, "bench", {"quick": True}, ("results.json", "bench.png"))
    claimed.claim()
    (tmp_path / "results.json").write_text("{}")
    claimed.claim()
    assert claimed.check() == {"results.json", "bench.png"}
    with pytest.raises(UserError, match="other quick"):
        Outputs(tmp_path, "bench", {"quick": False}, claimed.names).claim()


@pytest.mark.parametrize("what", ["a link to nothing", "a pipe"])
def test_a_manifest_that_is_no_file_is_refused(what, tmp_path):
    """It is not taken for a missing one; reading a pipe would wait for ever."""
    if what == "a pipe":
        os.mkfifo(tmp_path / MANIFEST)
    else:
        (tmp_path / MANIFEST).symlink_to("nowhere")
    with pytest.raises(UserError, match="run.json is no record of a run .*, or move it away"):
        write(tmp_path, "table.csv")
