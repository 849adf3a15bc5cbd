"""``attngraph data`` and ``scenes``: what they write, print and end with, on drawn data sets."""

import json
import shutil

import pytest

from attngraph.experiments.base.arguments import QUIET
from attngraph.experiments.cli import main
from attngraph.experiments.commands import data
from attngraph.experiments.data.captions import COCO
from attngraph.experiments.data.dataset import DATA_SETS, split_examples
from attngraph.experiments.data.drawn import LAYOUTS, make_scenes
from tests.experiments.conftest import one_line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("data") / "six", 1, 20)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv(QUIET, "1")


def run(*words) -> int:
    return main(["data", *map(str, words)])


def refusal(capsys, *words) -> str:
    assert run(*words) == 2
    return one_line(capsys)


def test_fetch_downloads_into_a_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data, "download", lambda data_set, root, splits: (root / x for x in ("a", *splits)))
    assert run("fetch", "textcaps", "--root", tmp_path, "--split", "val") == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / x) for x in ("a", "val")]
    (tmp_path / "file").write_text("")
    for words, said in (
        (["vizwiz_caps", "--root", tmp_path / "file"], "not a folder"),
        (["textcaps"], "--root is missing"),
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
    assert "not a folder of synthetic scenes" in refusal(capsys, "make", "scenes", "--out", tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "six"]


def test_scenes_of_a_size_and_seed(tmp_path, capsys):
    out = tmp_path / "scenes"
    assert main(["scenes", "--out", str(out), "--seed", "7", "--size", "6", "3", "3"]) == 0
    assert capsys.readouterr().out == f"{out}: vqa_v2, snli_ve and karpathy, seed 7\n"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["seed"] == 7
    assert manifest["sizes"] == {name: [6, 3, 3] for name in ("questions", "hypotheses", "captions")}
    written = [len(split_examples(COCO, out / "karpathy", split)) for split in ("train", "val", "test")]
    assert written == [6, 3, 3]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_drawn_set_is_whole(folder, name, capsys):
    before = {path: path.stat().st_mtime_ns for path in (folder / name).rglob("*")}
    assert run("check", name, "--root", folder / name, "--deep") == 0
    printed = capsys.readouterr().out
    assert printed.endswith("complete: no faults; these are synthetic scenes, without published counts\n")
    assert f"format {DATA_SETS[name].readers[0].name}: " in printed and " images decoded" in printed
    assert {path: path.stat().st_mtime_ns for path in (folder / name).rglob("*")} == before


def test_other_counts_have_their_own_exit_code(folder, tmp_path, capsys):
    root = shutil.copytree(folder / "coco", tmp_path / "coco")
    (root / "scenes.json").unlink()
    assert run("check", "coco", "--root", root) == 3
    printed = capsys.readouterr().out
    assert "113,287" in printed and "counts differ from the published ones: train (karpathy)" in printed


def test_layout_shows_one_or_all(capsys):
    assert run("layout", "snli_ve") == 0
    one = capsys.readouterr().out
    assert "snli_ve_" in one and "https://drive.google.com" in one and "licence: " in one
    assert run("layout") == 0
    every = capsys.readouterr().out
    assert one in every and all(f"{data_set.title}, https://" in every for data_set in DATA_SETS.values())


def test_what_is_wrong_or_missing_is_said(folder, capsys, tmp_path):
    root = ("--root", folder / "coco")
    for words, said in (
        (["check"], "missing argument NAME: choose from"),
        (["check", "coc", *root], "unknown dataset 'coc'"),
        (["check", "coco"], "--root is missing"),
        (["fetch", "textcaps", "--root", folder / "manifest.json"], "--root is missing or not a folder"),
        (["check", "coco", "--root", folder], "dataset_coco.json missing, required for the split"),
        (["check", "coco", *root, "--split", "dev"], "'dev'"),
        (["check", "coco", *root, "--out", tmp_path], "--out is not an option of `attngraph data check`"),
        (["make", "scenes"], "--out is missing"),
        (["make", "scene", "--out", tmp_path / "x"], "did you mean scenes?"),
    ):
        assert said in refusal(capsys, *words), words
    assert not list(tmp_path.iterdir())
