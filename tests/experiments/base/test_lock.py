"""One command at a time in a folder: the lock ends with its owner, however that ends."""

import os
import signal
import socket

import pytest

from attngraph.errors import UserError
from experiments.base.files import HOST, PART
from experiments.base.lock import LOCK, sole_use
from tests.experiments.holding import holding

HOLD = """
import sys, time
from pathlib import Path
from experiments.base.lock import sole_use
with sole_use(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that works in ``tmp_path / "out"``."""
    with holding(HOLD, tmp_path / "out", "locked") as process:
        yield process


def test_a_folder_in_use_is_refused_with_the_owners_name_until_the_owner_is_killed(holder, tmp_path):
    out = tmp_path / "out"
    part = out / f"{PART}{HOST}-{holder.pid}-state-x"
    part.write_text("half")
    os.kill(holder.pid, signal.SIGSTOP)  # it owns the folder nevertheless
    owner = rf"process {holder.pid} on {socket.gethostname()}, started 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d"
    for _ in range(2):
        with pytest.raises(UserError, match=rf"out is in use by another command \({owner}\): wait"):
            with sole_use(out):
                pytest.fail("two at a time")
    with sole_use(tmp_path / "other"):
        pass
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # a zombie is no owner
    assert str(holder.pid) in (out / LOCK).read_text()
    with sole_use(out):
        assert f"process {os.getpid()} " in (out / LOCK).read_text()
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


def test_a_damaged_lock_file_is_no_obstacle(tmp_path):
    content = b"\xff" * 5000
    (tmp_path / LOCK).write_bytes(content)
    with sole_use(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on")
        (tmp_path / LOCK).write_bytes(content)
        with pytest.raises(UserError, match="in use by another command") as error, sole_use(tmp_path):
            pass
        assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_a_process_that_is_forked_does_not_keep_the_lock(tmp_path):
    """Such as one that reads pictures, which may live a moment longer than a command that was killed."""
    with sole_use(tmp_path):
        child = os.fork()
        if child == 0:
            signal.pause()
    try:
        with sole_use(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
