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
    """Whether only results and errors are wanted."""
    return bool(os.environ.get(QUIET))


class Progress(tqdm):
    """A progress bar as tqdm's, which ``--quiet`` turns off; it takes the same arguments."""

    def __init__(self, *args: Any, disable: bool | None = False, **options: Any):
        super().__init__(*args, disable=disable or is_quiet(), **options)


def note(message: str) -> None:
    """Prints a line for the user that is no result; it does not break a bar that is being drawn."""
    if not is_quiet():
        tqdm.write(message, file=sys.stderr)
