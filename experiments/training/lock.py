"""One command at a time in a folder of results.

Two commands that run the same cells in one folder would do everything twice and disturb each other's files.
So a command locks its folder: the file ``.lock`` names it, and the system's own lock on that file lasts as
long as the command or one of its worker processes, however they end.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from experiments.files import is_running, remove_parts

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
WAIT = 10.0  # seconds in which the workers of a killed command must have ended
TAKEN = (errno.EWOULDBLOCK, errno.EACCES)

_open: dict[Path, int] = {}  # the locks of this process: folder -> file descriptor


@contextmanager
def sole_use(out: Path) -> Iterator[None]:
    """Nobody else works in a folder while the block runs.

    The lock of a command that was killed is taken over, and what it left half-written is removed. Where the
    file system knows no locks, the process that ``.lock`` names decides.

    Args:
        out: made if it does not exist, with the folders above it, and removed again with them if it is empty
            when the block ends.

    Raises:
        UserError: another command works in the folder.
    """
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    file = _locked(out)
    try:
        _open[out] = file
        remove_parts(out)
        yield
    finally:
        del _open[out]
        with suppress(OSError):  # somebody has removed the folder, or begun to use it
            os.unlink(out / LOCK)
            for folder in new:  # until one is not empty
                folder.rmdir()
        os.close(file)


class SharedLock:
    """Sent to a worker process, it keeps the lock of a folder until that process ends too.

    Args:
        out: the folder; nothing is sent if this process has not locked it.
    """

    def __init__(self, out: Path):
        self.file = _open.get(out)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_keep, () if self.file is None else (DupFd(self.file),))


def _keep(sent: Any = None) -> None:
    if sent is not None:
        sent.detach()  # open until the process ends


@contextmanager
def held(file: Path) -> Iterator[None]:
    """A lock that several processes hold together, on any machines that share the file; without effect where
    the file system knows no locks.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with suppress(OSError):
            _flock(handle, "LOCK_SH", wait=True)  # while another process looks, see is_held
        yield
    finally:
        os.close(handle)


def is_held(file: Path) -> bool:
    """Whether a process holds a lock by :func:`held`."""
    try:
        handle = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        _flock(handle, "LOCK_EX")
        return False
    except OSError as error:
        return error.errno in TAKEN
    finally:
        os.close(handle)


def _flock(file: int, kind: str, wait: bool = False) -> None:
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "no locks")
    fcntl.flock(file, getattr(fcntl, kind) | (0 if wait else fcntl.LOCK_NB))


def _locked(out: Path) -> int:
    """The open file of a lock that is ours."""
    until = time.monotonic() + WAIT
    while True:
        file = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if _take(file) and _is_file(file, out / LOCK):
                _sign(file)
                return file
            owner = _owner(file)
            if _may_run(owner):
                raise UserError(
                    f"{out} is in use by another command ({_in_words(owner)}): wait for its end, end it, "
                    "or give another --out"
                )
            if time.monotonic() > until:
                raise UserError(
                    f"{out} is in use by workers of a command that has ended ({_in_words(owner)}): end them, "
                    "or give another --out"
                )
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        time.sleep(0.05)


def _take(file: int) -> bool:
    """Whether the lock was free."""
    try:
        _flock(file, "LOCK_EX")
        return True
    except OSError as error:
        return error.errno not in TAKEN and not _may_run(_owner(file))


def _is_file(file: int, path: Path) -> bool:
    """Whether an open file still has its name: the command before us removes it when it is done."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _sign(file: int) -> None:
    started = datetime.now().isoformat(sep=" ", timespec="seconds")
    owner = {"process": os.getpid(), "host": socket.gethostname(), "started": started}
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(owner).encode(), 0)


def _owner(file: int) -> dict[str, Any]:
    """Who signed a lock; empty where that cannot be read."""
    try:
        owner = json.loads(os.pread(file, 4096, 0))
        return {name: owner[name] for name in ("process", "host", "started")} | {
            "process": int(owner["process"])
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _may_run(owner: dict[str, Any]) -> bool:
    """Whether the owner of a lock runs, or is on another machine, where nobody can tell."""
    if not owner:
        return False
    return owner["host"] != socket.gethostname() or is_running(owner["process"])


def _in_words(owner: dict[str, Any]) -> str:
    if not owner:
        return "its name cannot be read"
    return f"process {owner['process']} on {owner['host']}, started {owner['started']}"
