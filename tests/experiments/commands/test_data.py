"""``attngraph data``: what it writes, prints and ends with, on drawn data sets in the official layouts."""

import shutil

import pytest

from experiments.base.arguments import QUIET
from experiments.cli import main
from experiments.commands import data
from experiments.data.dataset import DATA_SETS
from experiments.data.drawn import LAYOUTS, make_scenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("data") / "six", 1, 20)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv(QUIET, "1")


def run(*words) -> int:
    return main(["data", *map(str, words)])


def refusal(capsys, *words) -> str:
    """The one line that a command which is refused ends with."""
    try:
        code = run(*words)
    except SystemExit as end:
        code = end.code
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("attngraph: ") and error.count("\n") == 1
    return error


def test_fetch_downloads_into_a_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data, "download", lambda data_set, root, splits: (root / x for x in ("a", *splits)))
    assert run("fetch", "textcaps", "--root", tmp_path, "--split", "val") == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / x) for x in ("a", "val")]
    (tmp_path / "file").write_text("")
    for words, said in (
        (["vizwiz_caps", "--root", tmp_path / "file"], "is no folder"),
        (["textcaps"], "--root is missing"),
        (["textcaps", "--root", tmp_path, "--deep"], "--deep is no option"),
    ):
        assert said in refusal(capsys, "fetch", *words)
    monkeypatch.undo()
    assert "no repository of the hub" in refusal(capsys, "fetch", "vizwiz_caps", "--root", tmp_path)


def test_make_writes_and_reuses_and_refuses(tmp_path, capsys):
    out = tmp_path / "six"
    for _ in range(2):
        assert run("make", "scenes", "--out", out, "--size", 10, "--seed", 4) == 0
        assert capsys.readouterr().out == f"{out}: {', '.join(LAYOUTS)}, seed 4, size 10\n"
    assert sorted(path.name for path in out.iterdir()) == sorted([*LAYOUTS, "manifest.json"])
    assert "other settings" in refusal(capsys, "make", "scenes", "--out", out, "--size", 11)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    assert "no folder of drawn scenes" in refusal(capsys, "make", "scenes", "--out", tmp_path / "mine")
    assert main(["scenes", "--out", str(out)]) == 2  # another command's folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "six"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_drawn_set_is_whole(folder, name, capsys):
    before = {path: path.stat().st_mtime_ns for path in (folder / name).rglob("*")}
    assert run("check", name, "--root", folder / name, "--deep") == 0
    printed = capsys.readouterr().out
    assert printed.endswith("whole: no faults; these are drawn scenes, with counts of their own\n")
    assert f"format {DATA_SETS[name].readers[0].name}: " in printed and " pictures decoded" in printed
    assert {path: path.stat().st_mtime_ns for path in (folder / name).rglob("*")} == before


def test_other_counts_have_their_own_exit_code(folder, tmp_path, capsys):
    root = shutil.copytree(folder / "coco", tmp_path / "coco")
    (root / "scenes.json").unlink()
    assert run("check", "coco", "--root", root) == 3
    printed = capsys.readouterr().out
    assert "113,287" in printed and "other counts than the published ones: train (karpathy)" in printed


def test_layout_shows_one_or_all(capsys):
    assert run("layout", "snli_ve") == 0
    one = capsys.readouterr().out
    assert "snli_ve_" in one and "https://drive.google.com" in one and "licence: " in one
    assert run("layout") == 0
    every = capsys.readouterr().out
    assert one in every and all(f"{data_set.title}, https://" in every for data_set in DATA_SETS.values())
    assert max(map(len, every.splitlines())) < 160


def test_what_is_wrong_or_missing_is_said(folder, capsys, tmp_path):
    root = ("--root", folder / "coco")
    for words, said in (
        (["check"], "NAME is missing: choose from"),
        (["check", "coc", *root], "unknown data set 'coc'"),
        (["check", "coco"], "--root is missing"),
        (["check", "coco", "--root", folder], "dataset_coco.json missing, which the split"),
        (["check", "coco", *root, "--out", tmp_path], "--out is no option of `attngraph data check`"),
        (["check", "coco", *root, "--split", "dev"], "'dev'"),
        (["layout", "coco", "--deep"], "--deep is no option"),
        (["make", "scenes"], "--out is missing"),
        (["make", "--out", tmp_path / "x"], "NAME is missing: give `attngraph data make scenes`"),
        (["make", "scene", "--out", tmp_path / "x"], "'scene' cannot be made (did you mean scenes?)"),
    ):
        assert said in refusal(capsys, *words), words
    assert not list(tmp_path.iterdir())
