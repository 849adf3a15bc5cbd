"""Whether pictures can be decoded to their last row, in several processes at once."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path

from PIL import Image

AT_A_TIME = 64  # pictures that a process gets
FEW = 256  # pictures for which starting processes is not worth it


def damage(file: Path) -> str | None:
    """What is wrong with a picture; None if it can be decoded as a whole."""
    try:
        if not file.stat().st_size:
            return "is empty"
        with Image.open(file) as picture:
            picture.convert("RGB")
    except FileNotFoundError:
        return "no such file"
    except Exception as error:  # decoders raise what they like, of damaged files
        return f"cannot be decoded ({str(error) or type(error).__name__})"
    return None


def damages(files: Sequence[Path], jobs: int) -> Iterator[str | None]:
    """:func:`damage` of each file, in their order.

    Args:
        files: pictures.
        jobs: processes at the same time.
    """
    if jobs == 1 or len(files) <= FEW:
        yield from map(damage, files)
        return
    pool = ProcessPoolExecutor(jobs, _context(), initializer=_leave_interrupts_to_the_first)
    try:
        yield from pool.map(damage, files, chunksize=AT_A_TIME)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _context() -> BaseContext:
    """How workers start. Ctrl-C is for the main process to handle, also while workers still import."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    resource_tracker.ensure_running()  # else the server starts it, and it unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # workers inherit it from the server
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _leave_interrupts_to_the_first() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
