"""One command at a time in a folder of results: two that execute the same runs would overwrite each other's
files.

This is an operating-system lock on the file ``.lock``; it ends with the command, even if that is killed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from attngraph.errors import UserError
from attngraph.experiments.base.files import remove_parts

LOCK = ".lock"


@contextmanager
def sole_use(out: Path) -> Iterator[None]:
    """Lock a folder while the block runs, and remove incomplete files left there by killed commands.

    Args:
        out: the folder. If it does not exist, it is created with its parents, and removed again with them if
            it is empty when the block ends.

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
            f"{out} is in use by another command: wait until it ends, stop it, or use another --out"
        ) from None
    try:
        remove_parts(out)
        yield
    finally:
        with suppress(OSError):  # somebody has removed the folder, or begun to use it
            os.unlink(out / LOCK)
            for folder in new:  # until one is not empty
                folder.rmdir()
        lock.release()
