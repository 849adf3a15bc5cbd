"""One command at a time in a folder: the lock ends with its owner and its workers, however they end."""

import json
import os
import signal
import socket
import time

import pytest

from attngraph.errors import UserError
from experiments.files import HOST, PART
from experiments.training import lock
from experiments.training.lock import LOCK, sole_use
from tests.experiments.holding import holding

HOLD = """
import sys, time
from pathlib import Path
from experiments.training.lock import sole_use
with sole_use(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that works in ``tmp_path / "out"``."""
    with holding(HOLD, tmp_path / "out", "locked") as process:
        yield process


def test_a_folder_in_use_is_refused_with_the_owners_name(holder, tmp_path):
    owner = rf"process {holder.pid} on {socket.gethostname()}, started 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d"
    for _ in range(2):
        with pytest.raises(UserError, match=rf"out is in use by another command \({owner}\): wait"):
            with sole_use(tmp_path / "out"):
                pytest.fail("two at a time")
    with sole_use(tmp_path / "other"):
        pass


def test_a_killed_owner_frees_it_and_its_parts_are_removed(holder, tmp_path):
    out = tmp_path / "out"
    part = out / f"{PART}{HOST}-{holder.pid}-state-x"
    part.write_text("half")
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # a zombie is no owner
    assert json.loads((out / LOCK).read_text())["process"] == holder.pid
    with sole_use(out):
        assert json.loads((out / LOCK).read_text())["process"] == os.getpid()
        assert not part.exists()
    assert not (out / LOCK).exists() and out.exists(), "it was there before"


def test_nothing_is_left_of_a_lock(tmp_path):
    out = tmp_path / "out"
    for error in (UserError, KeyboardInterrupt):
        with pytest.raises(error), sole_use(out):
            raise error
        assert not out.exists()
    with sole_use(tmp_path / "deep" / "er" / "out"):
        (tmp_path / "deep" / "mine").write_text("")
    assert os.listdir(tmp_path / "deep") == ["mine"], "folders above that it made are empty"
    with sole_use(out):
        (out / "result").write_text("")
        with pytest.raises(UserError, match=f"process {os.getpid()} "), sole_use(out):
            pass
        assert (out / LOCK).exists()
    assert os.listdir(out) == ["result"]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"process": null}', "[" * 5000, b"\xff"])
def test_a_damaged_lock_file_is_no_obstacle(content, tmp_path):
    (tmp_path / LOCK).write_bytes(content if isinstance(content, bytes) else content.encode())
    with sole_use(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_workers_of_a_killed_command_are_waited_for(holder, tmp_path, monkeypatch):
    """Here the "worker" is a process that has inherited the lock; it outlives its parent for a while."""
    out = tmp_path / "out"
    dead = json.loads((out / LOCK).read_text()) | {"process": 2**22 + 1}
    (out / LOCK).write_text(json.dumps(dead))
    monkeypatch.setattr(lock, "WAIT", 0.3)
    with pytest.raises(UserError, match="in use by workers of a command that has ended"), sole_use(out):
        pass
    monkeypatch.setattr(lock, "WAIT", 30)
    sleep, naps = time.sleep, []
    monkeypatch.setattr(lock.time, "sleep", lambda s: naps.append(s) or holder.kill() or sleep(s))
    with sole_use(out):
        assert naps


@pytest.mark.parametrize("locks", ["none", "unsupported"])
def test_where_there_are_no_locks_the_name_decides(locks, tmp_path, monkeypatch):
    if locks == "none":
        monkeypatch.setattr(lock, "fcntl", None)
    else:
        monkeypatch.setattr(
            lock.fcntl, "flock", lambda *a: (_ for _ in ()).throw(OSError(95, "Not supported"))
        )
    with sole_use(tmp_path), pytest.raises(UserError, match="in use by another command"), sole_use(tmp_path):
        pass
    owner = {"process": 2**22 + 1, "host": socket.gethostname(), "started": "then"}
    (tmp_path / LOCK).write_text(json.dumps(owner))
    with sole_use(tmp_path):
        pass
    (tmp_path / LOCK).write_text(json.dumps(owner | {"host": "elsewhere"}))
    with pytest.raises(UserError, match="on elsewhere, started then"), sole_use(tmp_path):
        pass


def test_a_lock_whose_file_the_last_owner_removes_is_asked_for_again(tmp_path, monkeypatch):
    """The file was opened before its owner removed it: a lock on it would be a lock on nothing."""
    take = lock._take

    def removed(file):
        monkeypatch.setattr(lock, "_take", take)
        os.unlink(tmp_path / LOCK)
        return take(file)

    monkeypatch.setattr(lock, "_take", removed)
    with sole_use(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_the_owner_may_be_stopped_by_a_signal(holder, tmp_path):
    os.kill(holder.pid, signal.SIGSTOP)
    with pytest.raises(UserError, match="in use by another command"), sole_use(tmp_path / "out"):
        pass
