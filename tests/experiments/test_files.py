"""Results appear all at once or not at all."""

import os
from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.files import check_out, published


def test_files_move_when_all_are_written(tmp_path):
    out = tmp_path / "a" / "b"
    with published(out, ["*.csv"]) as folder:
        (folder / "new.csv").write_text("1")
        assert folder != out and not (out / "new.csv").exists()
    assert [file.name for file in out.iterdir()] == ["new.csv"]
    (out / "mine.txt").write_text("2")
    with published(out, ["*.csv"]) as folder:
        (folder / "other.csv").write_text("3")
    assert sorted(file.name for file in out.iterdir()) == ["mine.txt", "other.csv"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_a_run_that_was_cut_off(tmp_path, error):
    out = tmp_path / "out"
    with pytest.raises(error), published(out, ["*"]) as folder:
        (folder / "half.csv").write_text("1")
        raise error
    assert not out.exists()
    out.mkdir()
    (out / "old.csv").write_text("0")
    with pytest.raises(error), published(out, ["*"]) as folder:
        raise error
    assert [file.name for file in out.iterdir()] == ["old.csv"]


def test_a_place_that_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "under"):
        with pytest.raises(UserError, match="is a file; name a folder"):
            check_out(out)
    check_out(tmp_path / "new" / "folder")
    if os.getuid():  # root may write anywhere
        tmp_path.chmod(0o500)
        with pytest.raises(UserError, match="cannot be written to"):
            check_out(tmp_path / "new")


def test_a_folder_that_was_there_stays_and_the_error_is_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError), published(Path("."), ["*"]):
        raise ZeroDivisionError
    assert tmp_path.exists()


def test_old_results_stay_until_new_ones_are_there(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("old")
    (tmp_path / "b.csv").write_text("old")

    def stopped(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), published(tmp_path, ["*.csv"]) as folder:
        (folder / "a.csv").write_text("new")
        monkeypatch.setattr(os, "replace", stopped)
    assert {(tmp_path / name).read_text() for name in ("a.csv", "b.csv")} == {"old"}
    assert [file.read_text() for file in tmp_path.glob(".part-*/a.csv")] == ["new"]
