"""Early end of a command (Ctrl-C, SIGTERM or SIGHUP), and of its workers."""

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
    """128 plus the number of the signal, as in shells: 130 after Ctrl-C."""
    return 128 + next((number for number in stop.args if isinstance(number, int)), signal.SIGINT)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into ``KeyboardInterrupt(number)``, so that a command cleans up.

    A second signal has its default effect, and so has the first in a forked process. Ignored signals stay
    ignored, as ``nohup`` requires. Processes of ``torchrun`` do not handle signals: one of them may be
    waiting for another inside PyTorch, where no handler runs.
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
    """Ctrl-C ends the process without a message while there is nothing to clean up: during an import the
    exception would appear as a traceback, or as an error of the package that is being imported.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_with_parent() -> None:
    """End this process when its parent has ended for any reason: otherwise a worker of a killed command would
    continue, and interfere with the same command when it is restarted.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
