"""One command at a time in a folder: the lock ends with its owner, however that ends."""

import os
import signal

import pytest

from attngraph.errors import UserError
from attngraph.experiments.base.files import HOST, PART
from attngraph.experiments.base.lock import LOCK, sole_use
from tests.experiments.holding import holding

HOLD = """
import sys, time
from pathlib import Path
from attngraph.experiments.base.lock import sole_use
with sole_use(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_folder_in_use_is_refused_until_its_owner_is_killed(tmp_path):
    out = tmp_path / "out"
    with holding(HOLD, out, "locked") as holder:
        part = out / f"{PART}{HOST}-{holder.pid}-x"
        part.write_text("half")
        os.kill(holder.pid, signal.SIGSTOP)  # it owns the folder nevertheless
        with pytest.raises(UserError, match="out is in use by another command: wait"), sole_use(out):
            pytest.fail("two at a time")
        with sole_use(tmp_path / "other"):
            pass
        holder.kill()
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # a zombie is no owner
        with sole_use(out):
            assert not part.exists()
        assert not (out / LOCK).exists() and out.exists(), "it was there before"


def test_nothing_is_left_of_a_lock(tmp_path):
    out = tmp_path / "deep" / "er" / "out"
    with pytest.raises(KeyboardInterrupt), sole_use(out):
        raise KeyboardInterrupt
    assert not any(tmp_path.iterdir())
    with sole_use(out):
        (tmp_path / "deep" / "mine").write_text("")
    assert os.listdir(tmp_path / "deep") == ["mine"], "folders above that it made are empty"
    with sole_use(out):
        (out / "result").write_text("")
        with pytest.raises(UserError, match="in use"), sole_use(out):
            pass
        assert (out / LOCK).exists()
    assert os.listdir(out) == ["result"]


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
