"""Results appear all at once or not at all."""

import errno
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from attngraph.errors import UserError
from experiments.base.files import (
    HOST,
    PART,
    check_out,
    is_running,
    published,
    remove_parts,
    whole,
    whole_folder,
    write_bytes,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_file_is_whole_or_as_before(tmp_path):
    file = tmp_path / "deep" / "state.pt"
    with pytest.raises(KeyboardInterrupt), whole(file) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert names(file.parent) == []
    with whole(file) as part:
        part.write_text("old")
        assert (part.parent, part.suffix, file.exists()) == (file.parent, ".pt", False)
    assert (file.read_text(), names(file.parent)) == ("old", ["state.pt"])
    with pytest.raises(KeyboardInterrupt), whole(file) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert (file.read_text(), names(file.parent)) == ("old", ["state.pt"])
    assert file.stat().st_mode & 0o777 == 0o644


def test_a_full_disk_names_the_file_and_not_its_temporary_neighbour(tmp_path):
    """Also where the files of a run are written into a temporary folder first."""
    full = OSError(errno.ENOSPC, "No space left on device")
    for named in (False, True):
        with pytest.raises(OSError) as caught, whole(tmp_path / "a.csv") as part:
            full.filename = str(part) if named else None
            raise full
        assert str(caught.value) == f"[Errno 28] No space left on device: '{tmp_path}/a.csv'"
        with pytest.raises(OSError) as caught, published(tmp_path / "out") as folder:
            with whole(folder / "b.csv") as part:
                full.filename = str(part) if named else None
                raise full
        assert str(caught.value) == f"[Errno 28] No space left on device: '{tmp_path}/out/b.csv'"
    with pytest.raises(OSError, match="/elsewhere'"), whole(tmp_path / "a.csv"):
        raise OSError(errno.ENOENT, "No such file or directory", "/elsewhere")
    assert names(tmp_path) == []


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


def test_a_folder_is_whole_or_absent(tmp_path):
    folder = tmp_path / "deep" / "data"
    with pytest.raises(KeyboardInterrupt), whole_folder(folder) as part:
        (part / "half").write_text("")
        raise KeyboardInterrupt
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


def test_nothing_is_left_of_a_run_that_was_cut_off(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), published(out) as folder:
        (folder / "half.csv").write_text("1")
        raise KeyboardInterrupt
    assert not out.exists()
    out.mkdir()
    (out / "old.csv").write_text("0")
    with pytest.raises(KeyboardInterrupt), published(out) as folder:
        raise KeyboardInterrupt
    assert [file.name for file in out.iterdir()] == ["old.csv"]


def test_a_place_that_cannot_be_a_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "under"):
        with pytest.raises(UserError, match="is a file; name a folder"):
            check_out(out)
    check_out(tmp_path / "new" / "folder")
    assert names(tmp_path) == ["file"]
    for name, target in (("loop", "loop"), ("dangling", "nowhere"), ("link", "file")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(UserError, match=f"--out .*{name} is a link that leads to no folder; name a f"):
            check_out(tmp_path / name)
        (tmp_path / name).unlink()
    asked = []

    def refuse(prefix, dir):  # root may write anywhere
        asked.append(dir)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(UserError, match=r"cannot be written to \(Permission denied\); name another folder"):
        check_out(tmp_path / "new")
    assert asked == [tmp_path]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_rights_alone_do_not_tell():
    """The superuser has them here too."""
    with pytest.raises(UserError, match="/proc cannot be written to"):
        check_out(Path("/proc/new"))


def test_old_results_stay_until_new_ones_are_there(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("old")
    (tmp_path / "b.csv").write_text("old")

    def stopped(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), published(tmp_path) as folder:
        (folder / "a.csv").write_text("new")
        monkeypatch.setattr(os, "replace", stopped)
    assert {(tmp_path / name).read_text() for name in ("a.csv", "b.csv")} == {"old"}
    assert names(tmp_path) == ["a.csv", "b.csv"]


def test_an_error_while_files_move_leaves_nothing_over_and_names_the_folder(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(IsADirectoryError), published(tmp_path) as folder:
        (folder / "a.csv").write_text("new")
    assert names(tmp_path) == ["a.csv"]
    with pytest.raises(OSError) as error, published(tmp_path):
        raise OSError(28, "No space left")
    assert error.value.filename == str(tmp_path)


def parts(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob(".attngraph-*"))


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    killed = subprocess.Popen(["true"])
    killed.wait()
    mine = [".attngraph-notes", ".attngraph-00000000-1-state-x", ".part-abc", "notes"]
    (tmp_path / "deep").mkdir()
    for name in ("state", "deep/other", "data"):
        place = tmp_path / name
        (place.parent / f"{PART}{HOST}-{killed.pid}-{place.name}-x").mkdir()
    for name in mine:
        (tmp_path / name).write_text("another machine's process may run")
    with whole_folder(tmp_path / "data"):  # takes the place of what was left of it
        assert [name.split("-")[3] for name in parts(tmp_path) if str(killed.pid) in name] == [
            "state",
            "other",
        ]
    with whole(tmp_path / "deep" / "state.pt") as part:
        remove_parts(tmp_path)
        assert part.exists(), "its process runs"
    assert set(mine) | {"data", "deep"} == set(names(tmp_path)) and names(tmp_path / "deep") == ["state.pt"]


def test_processes_that_run_and_that_have_ended():
    child = subprocess.Popen(["sleep", "60"])
    assert is_running(os.getpid()) and is_running(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked about it
    assert not is_running(child.pid)
    child.wait()
    assert not is_running(child.pid) and not is_running(10**30)


@pytest.mark.parametrize("maker", [whole_folder, published])
def test_others_can_read_what_a_library_wrote_for_its_owner_alone(maker, tmp_path):
    with maker(tmp_path / "out") as part:
        (part / "inner").mkdir(mode=0o700)
        save_file({"weight": torch.ones(1)}, part / "model.safetensors")
        (part / "inner" / "private").touch(mode=0o600)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*")}
    assert modes == {"inner": 0o755, "private": 0o644, "model.safetensors": 0o644}
