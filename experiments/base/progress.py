"""Progress bars and notes on standard error, which ``--quiet`` turns off.

The switch is an environment variable, so that worker processes and scripts share it.
"""

from __future__ import annotations

import os
import sys
from threading import RLock
from typing import Any

from tqdm import tqdm

from attngraph.experiments.base.arguments import QUIET

tqdm.set_lock(RLock())  # tqdm's own is a semaphore, of which Python warns where a worker with a bar is killed


def is_quiet() -> bool:
    """Whether only results and errors are printed."""
    return bool(os.environ.get(QUIET))


class Progress(tqdm):
    """A progress bar of tqdm, which ``--quiet`` turns off, with the same arguments."""

    def __init__(self, *args: Any, disable: bool | None = False, **options: Any):
        super().__init__(*args, disable=disable or is_quiet(), **options)


def note(message: str) -> None:
    """Print a note for the user on standard error, without breaking a progress bar."""
    if not is_quiet():
        tqdm.write(message, file=sys.stderr)
