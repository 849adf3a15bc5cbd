"""Results appear all at once or not at all."""

import errno
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from attngraph.errors import UserError
from attngraph.experiments.base.files import (
    HOST,
    PART,
    check_out,
    is_running,
    published,
    remove_parts,
    whole,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_file_is_whole_or_as_before(tmp_path):
    file = tmp_path / "deep" / "state.pt"
    for held in ([], ["state.pt"]):
        with pytest.raises(KeyboardInterrupt), whole(file) as part:
            part.write_text("half")
            raise KeyboardInterrupt
        assert names(file.parent) == held
        with whole(file) as part, whole(file) as other:  # two writers do not meet: the last to end wins
            part.write_text("whole")
            other.write_text("other")
            assert (part.parent, part.suffix, part != other) == (file.parent, ".pt", True)
        assert (file.read_text(), names(file.parent)) == ("whole", ["state.pt"])
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert file.read_text() == "whole"
    assert write_json(file, {"a": "≤"}).read_text() == '{\n "a": "\\u2264"\n}\n'
    assert write_json(file, [1.5], indent=None, default=float).read_text() == "[1.5]"


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
    with pytest.raises(OSError) as caught, published(tmp_path / "out"):
        raise OSError(28, "No space left")
    assert caught.value.filename == f"{tmp_path}/out"
    with pytest.raises(OSError, match="/elsewhere'"), whole(tmp_path / "a.csv"):
        raise OSError(errno.ENOENT, "No such file or directory", "/elsewhere")
    assert names(tmp_path) == []


def test_results_join_a_folder_when_all_are_written(tmp_path, monkeypatch):
    out = tmp_path / "a" / "b"
    for name in ("new.csv", "more.csv"):
        with pytest.raises(KeyboardInterrupt), published(out) as folder:
            (folder / "half.csv").write_text("")
            raise KeyboardInterrupt
        before = names(out) if out.exists() else []
        with published(out) as folder:
            (folder / "new.csv").write_text(name)
            (folder / name).write_text(name)
            (folder / f"of {name}").mkdir()
            assert [one for one in before if not one.startswith(PART)] == before
        assert (out / "new.csv").read_text() == name and names(out.parent) == ["b"]
    assert names(out) == ["more.csv", "new.csv", "of more.csv", "of new.csv"]

    def stopped(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), published(out) as folder:
        (folder / "new.csv").write_text("newer")
        monkeypatch.setattr(os, "replace", stopped)
    monkeypatch.undo()
    with pytest.raises(OSError), published(out) as folder:
        (folder / "of new.csv").write_text("a file where a folder is")
    assert (out / "new.csv").read_text() == "more.csv" and len(names(out)) == 4


def test_others_can_read_what_a_library_wrote_for_its_owner_alone(tmp_path):
    with published(tmp_path / "out") as part:
        (part / "inner").mkdir(mode=0o700)
        save_file({"weight": torch.ones(1)}, part / "model.safetensors")
        (part / "inner" / "private").touch(mode=0o600)
    with whole(tmp_path / "out" / "file") as part:
        part.touch(mode=0o600)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    files = dict.fromkeys(("file", "private", "model.safetensors"), 0o644)
    assert modes == {"out": 0o755, "inner": 0o755, **files}


def test_a_place_that_cannot_be_a_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for out in ("file", "file/under", "loop"):
        with pytest.raises(UserError, match=f"--out .*{out[:4]} is not a folder; use another path"):
            check_out(tmp_path / out)
    check_out(tmp_path / "new" / "folder")
    assert names(tmp_path) == ["file", "loop"]
    if Path("/proc/self").exists():
        with pytest.raises(UserError, match="cannot write to /proc "):
            check_out(Path("/proc/new"))  # where the superuser has rights too

    def refuse(prefix, dir):
        assert dir == tmp_path
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(UserError, match=r"cannot write to .* \(Permission denied\); use another folder"):
        check_out(tmp_path / "new")


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    killed = subprocess.Popen(["true"])
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked about it
    assert is_running(os.getpid()) and not is_running(killed.pid) and not is_running(10**30)
    killed.wait()
    assert not is_running(killed.pid)
    mine = [".attngraph-notes", ".attngraph-elsewhere-1-x", f"{PART}{HOST}-x", "notes"]
    for name in mine:
        (tmp_path / name).write_text("another machine's process may run")
    (tmp_path / "deep" / f"{PART}{HOST}-{killed.pid}-folder" / "inner").mkdir(parents=True)
    (tmp_path / "deep" / f"{PART}{HOST}-{killed.pid}-file").touch()
    with whole(tmp_path / "deep" / "state.pt") as part:
        part.write_text("its process runs")
        remove_parts(tmp_path)
    (tmp_path / f"{PART}{HOST}-{killed.pid}-new").mkdir()
    with published(tmp_path / "new"):
        pass
    assert names(tmp_path) == sorted([*mine, "deep", "new"]) and names(tmp_path / "deep") == ["state.pt"]
