"""How a command ends early: by Ctrl-C, by SIGTERM or SIGHUP, and its workers whenever it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: Signals that ask a command to end; Windows has fewer.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def exit_code(stop: KeyboardInterrupt) -> int:
    """128 and the number of the signal, as shells say it: 130 after Ctrl-C."""
    return 128 + next((number for number in stop.args if isinstance(number, int)), signal.SIGINT)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end a command in the same way, by ``KeyboardInterrupt(number)``: it tidies
    up.

    A second signal does what it would have done without this, and so does the first in a process that was
    forked meanwhile. Signals that are ignored stay ignored, as ``nohup`` wants it. The processes of
    ``torchrun`` leave signals alone: one of them may wait for another inside PyTorch, where no handler runs.
    """
    before, process = {number: signal.getsignal(number) for number in SIGNALS}, os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        restore()
        if os.getpid() != process:
            os.kill(os.getpid(), number)
        else:
            raise KeyboardInterrupt(number)

    def restore() -> None:
        for number, earlier in before.items():
            signal.signal(number, earlier)

    if os.environ.get("WORLD_SIZE", "1") == "1":
        for number, earlier in before.items():
            if earlier not in (signal.SIG_IGN, None):
                signal.signal(number, stop)
    try:
        yield
    finally:
        restore()


@contextmanager
def stops_at_once() -> Iterator[None]:
    """Lets Ctrl-C end the process without a word, as long as there is nothing to clean up: inside an import
    the exception would come out as a traceback, or as an error of the package that is being imported.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_with_parent() -> None:
    """Ends this process as soon as the one that started it has ended, however: else a worker of a killed
    command would go on, and disturb the same command when it is given again.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
