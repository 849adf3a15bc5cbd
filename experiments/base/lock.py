"""One command at a time in a folder of results.

Two commands that run the same cells in one folder would do everything twice and disturb each other's files.
So a command holds a lock of the system's on the file ``.lock``, which ends with the command, however that
ends, and is named in it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from attngraph.errors import UserError
from experiments.base.files import remove_parts

LOCK = ".lock"


@contextmanager
def sole_use(out: Path) -> Iterator[None]:
    """Nobody else works in a folder while the block runs. What a killed command left half-written there is
    removed.

    Args:
        out: made if it does not exist, with the folders above it, and removed again with them if it is empty
            when the block ends.

    Raises:
        UserError: another command works in the folder.
    """
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{out} is in use by another command ({_named_in(out / LOCK)}): wait for its end, end it, or "
            "give another --out"
        ) from None
    try:
        started = datetime.now().isoformat(sep=" ", timespec="seconds")
        (out / LOCK).write_text(f"process {os.getpid()} on {socket.gethostname()}, started {started}")
        remove_parts(out)
        yield
    finally:
        with suppress(OSError):  # somebody has removed the folder, or begun to use it
            os.unlink(out / LOCK)
            for folder in new:  # until one is not empty
                folder.rmdir()
        lock.release()


def _named_in(file: Path) -> str:
    """Who holds a lock, in its own words."""
    with suppress(OSError, UnicodeDecodeError):
        return " ".join(file.read_text()[:200].split()) or "which has just begun"
    return "its name cannot be read"
