"""Whether pictures can be decoded to their last row, in several processes at once."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
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
        with _uninterrupted():  # until the pool knows all of its workers, and can wait for them
            found = pool.map(damage, files, chunksize=AT_A_TIME)
        yield from found
    finally:
        pool.shutdown(cancel_futures=True)


def _context() -> BaseContext:
    """How workers start: from a process that has imported what they need, where the system can; else anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the block has ended. Processes that start in it never hear of it: it is for the main
    process to handle.
    """
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    resource_tracker.ensure_running()  # else it is started in the block, and unblocks the signal
    handler = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))  # of other threads
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if heard and callable(handler):
        handler(signal.SIGINT, None)


def _leave_interrupts_to_the_first() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
