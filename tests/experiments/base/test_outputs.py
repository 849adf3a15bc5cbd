"""A run replaces what a run like it wrote, and nothing else."""

import json
import os
from pathlib import Path

import pytest

from attngraph.errors import UserError
from attngraph.experiments.base.outputs import MANIFEST, Outputs

NAMES = ("table.csv", "map_*.png")


def outputs(folder: Path, command: str = "tsne", **settings) -> Outputs:
    return Outputs(folder, command, settings, NAMES)


def write(folder: Path, *names: str, text: str = "new", **settings) -> None:
    outputs(folder, **settings).save(lambda part: [(part / name).write_text(text) for name in names])


def held(folder: Path) -> dict[str, str]:
    """The folder's files and their content, but for the manifest."""
    return {file.name: file.read_text() for file in folder.iterdir() if file.name != MANIFEST}


def test_the_same_run_replaces_its_files_and_removes_those_that_it_no_longer_writes(tmp_path):
    out = tmp_path / "out"
    write(out, "table.csv", "map_a.png", text="old", seed=0)
    manifest = json.loads((out / MANIFEST).read_text())
    assert (manifest["command"], manifest["settings"]) == ("tsne", {"seed": 0})
    assert manifest["files"] == ["map_a.png", "table.csv"]
    (out / "notes.txt").write_text("mine")
    write(out, "table.csv", "map_b.png", seed=0)
    assert held(out) == {"table.csv": "new", "map_b.png": "new", "notes.txt": "mine"}
    Outputs(None, "tsne", {}, NAMES).save(lambda part: pytest.fail("nothing is to be saved"))
    assert not Outputs(None, "tsne", {}, NAMES).check()


def test_files_of_somebody_else_are_refused_before_anything_is_written(tmp_path):
    name = "map_of_the_town.png"  # which a pattern means
    (tmp_path / name).write_text("mine")
    for refused in (outputs(tmp_path).check, lambda: write(tmp_path, "table.csv")):
        with pytest.raises(UserError, match=f"{name} already exists and was not written by .* another --out"):
            refused()
    assert held(tmp_path) == {name: "mine"} and not (tmp_path / MANIFEST).exists()


def test_a_name_that_no_pattern_tells_and_that_comes_up_while_the_run_works(tmp_path):
    (tmp_path / "other.txt").write_text("mine")
    with pytest.raises(UserError, match="other.txt already exists"):
        write(tmp_path, "other.txt")
    with pytest.raises(UserError, match="table.csv already exists"), outputs(tmp_path).writing() as part:
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
    with pytest.raises(UserError, match=rf"holds another experiment \({why}\): use .* or move that fol"):
        write(tmp_path, "table.csv", **other)
    assert held(tmp_path) == {"table.csv": "old"}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"command": "tsne", "attngraph": "1", "settings": [], "files": []}',
        '{"command": "tsne", "attngraph": "1", "settings": {}, "files": ["../table.csv"]}',
        "a pipe",  # which may have no end
        "a link to nothing",
    ],
)
def test_what_is_no_manifest_is_refused_and_stays(tmp_path, text):
    out = tmp_path / "out"
    write(out, "table.csv", text="old")
    (tmp_path / "table.csv").write_text("mine")
    (out / MANIFEST).unlink()
    if text == "a pipe":
        os.mkfifo(out / MANIFEST)
    elif text == "a link to nothing":
        (out / MANIFEST).symlink_to("nowhere")
    else:
        (out / MANIFEST).write_text(text)
    with pytest.raises(UserError, match=r"run\.json"):
        write(out, "table.csv")
    assert held(out) == {"table.csv": "old"} and (tmp_path / "table.csv").read_text() == "mine"


def test_an_interrupted_run_leaves_everything_as_it_was(tmp_path):
    for before in ({}, {"table.csv": "old"}):
        with pytest.raises(KeyboardInterrupt), outputs(tmp_path).writing() as part:
            (part / "table.csv").write_text("half")
            raise KeyboardInterrupt
        assert held(tmp_path) == before and (tmp_path / MANIFEST).exists() == bool(before)
        write(tmp_path, "table.csv", text="old")


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
        monkeypatch.setattr("attngraph.experiments.base.files.os.replace", stops_at_the_second)
    monkeypatch.undo()
    seen = {file.name: file.read_text() for pattern in NAMES for file in tmp_path.glob(pattern)}
    assert seen == {"map_a.png": "new", "map_old.png": "old", "table.csv": "old"}
    write(tmp_path, "map_a.png", "table.csv", text="newer")
    assert {file.name for file in tmp_path.glob("[!.]*")} == {"map_a.png", "table.csv", MANIFEST}


def test_nobody_else_works_in_the_folder_meanwhile(tmp_path):
    out = tmp_path / "deep" / "out"
    with outputs(out).alone():
        with pytest.raises(UserError, match="out is in use by another command"), outputs(out).alone():
            pytest.fail("two at a time")
    assert not out.parent.exists()
