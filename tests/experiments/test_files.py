"""Results appear all at once or not at all."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from attngraph.errors import UserError
from experiments.files import (
    check_out,
    published,
    whole,
    whole_folder,
    write_bytes,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_file_is_whole_or_as_before(tmp_path, error):
    file = tmp_path / "deep" / "state.pt"
    with pytest.raises(error), whole(file) as part:
        part.write_text("half")
        raise error
    assert names(file.parent) == []
    with whole(file) as part:
        part.write_text("old")
        assert (part.parent, part.suffix, file.exists()) == (file.parent, ".pt", False)
    assert (file.read_text(), names(file.parent)) == ("old", ["state.pt"])
    with pytest.raises(error), whole(file) as part:
        part.write_text("half")
        raise error
    assert (file.read_text(), names(file.parent)) == ("old", ["state.pt"])
    assert file.stat().st_mode & 0o777 == 0o644


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with whole(tmp_path / "a") as first, whole(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first" and names(tmp_path) == ["a"]  # the outer block ends last


def test_texts_bytes_and_json(tmp_path):
    file = tmp_path / "file"
    assert write_text(file, "p̄ ≤ 1\r\n") == file
    assert file.read_bytes() == "p̄ ≤ 1\r\n".encode()
    assert write_bytes(str(file), b"\x00\xff") == file and file.read_bytes() == b"\x00\xff"
    write_json(file, {"a": [1, 2.5]}, indent=None)
    assert file.read_text() == '{"a": [1, 2.5]}'
    write_json(file, {"a": np.float32(2.5)}, default=float)
    assert file.read_text() == '{\n "a": 2.5\n}\n'
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    with pytest.raises(ValueError):
        write_json(file, {"a": float("nan")}, allow_nan=False)
    assert json.loads(file.read_text()) == {"a": 2.5} and names(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_folder_is_whole_or_absent(tmp_path, error):
    folder = tmp_path / "deep" / "data"
    with pytest.raises(error), whole_folder(folder) as part:
        (part / "half").write_text("")
        raise error
    assert names(folder.parent) == []
    folder.mkdir()
    with whole_folder(folder) as part:
        (part / "file").write_text("1")
        assert names(folder) == []
    assert (names(folder.parent), names(folder)) == (["data"], ["file"])
    assert folder.stat().st_mode & 0o777 == 0o755
    with pytest.raises(OSError), whole_folder(folder) as part:
        (part / "file").write_text("2")
    assert (names(folder.parent), (folder / "file").read_text()) == (["data"], "1")


def test_files_move_when_all_are_written(tmp_path):
    out = tmp_path / "a" / "b"
    with published(out) as folder:
        (folder / "new.csv").write_text("1")
        assert folder != out and not (out / "new.csv").exists()
    assert [file.name for file in out.iterdir()] == ["new.csv"]
    (out / "mine.txt").write_text("2")
    with published(out) as folder:
        (folder / "other.csv").write_text("3")
    assert names(out) == ["mine.txt", "new.csv", "other.csv"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_a_run_that_was_cut_off(tmp_path, error):
    out = tmp_path / "out"
    with pytest.raises(error), published(out) as folder:
        (folder / "half.csv").write_text("1")
        raise error
    assert not out.exists()
    out.mkdir()
    (out / "old.csv").write_text("0")
    with pytest.raises(error), published(out) as folder:
        raise error
    assert [file.name for file in out.iterdir()] == ["old.csv"]


def test_a_place_that_cannot_be_a_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "under"):
        with pytest.raises(UserError, match="is a file; name a folder"):
            check_out(out)
    check_out(tmp_path / "new" / "folder")
    asked = []
    monkeypatch.setattr(
        os, "access", lambda path, mode: asked.append((path, mode))
    )  # root may write anywhere
    with pytest.raises(UserError, match="cannot be written to"):
        check_out(tmp_path / "new")
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


def test_a_folder_that_was_there_stays_and_the_error_is_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError), published(Path(".")):
        raise ZeroDivisionError
    assert tmp_path.exists()


def test_old_results_stay_until_new_ones_are_there(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("old")
    (tmp_path / "b.csv").write_text("old")

    def stopped(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), published(tmp_path) as folder:
        (folder / "a.csv").write_text("new")
        monkeypatch.setattr(os, "replace", stopped)
    assert {(tmp_path / name).read_text() for name in ("a.csv", "b.csv")} == {"old"}
    assert [file.read_text() for file in tmp_path.glob(".part-*/a.csv")] == ["new"]
