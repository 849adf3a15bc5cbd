"""Processes that read pictures while a run computes: how many, how they begin, what they say when they fail.

What they read does not depend on how many there are: a picture's changes follow from its place in the run.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from attngraph.errors import UserError
from experiments.base.stopping import SIGNALS, end_with_parent

MOST = 4  # for a GPU
SHARED_MEMORY = 2**30  # bytes: where there is less (containers), batches might not fit


def loader_options(reads_pictures: bool, device: torch.device) -> dict[str, Any]:
    """Options of a DataLoader: one process beside a run on CPUs, up to :data:`MOST` for one on a GPU; none
    where there are no pictures to read, or where processes cannot be forked safely.
    """
    if not reads_pictures or sys.platform != "linux" or shutil.disk_usage("/dev/shm").free < SHARED_MEMORY:
        return {}
    share = (os.cpu_count() or 1) // max(1, torch.cuda.device_count())
    workers = 1 if device.type == "cpu" else max(1, min(MOST, share))
    return {"num_workers": workers, "multiprocessing_context": "fork"}


def begin_loader(worker: int) -> None:
    """What a loader does first: it ends whenever the run ends, and leaves signals to it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    end_with_parent()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it warns that it was forked


@contextmanager
def errors_of_loaders() -> Iterator[None]:
    """Errors of users in a loader come out in their own words, without the traceback that PyTorch puts before
    them.
    """
    try:
        yield
    except UserError as error:
        name = f"{UserError.__module__}.{UserError.__qualname__}: "
        if "DataLoader worker process" not in str(error):
            raise
        raise UserError(str(error).rpartition(name)[2].strip()) from None
