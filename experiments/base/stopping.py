"""How a command ends early: by Ctrl-C, by SIGTERM or SIGHUP, and its workers whenever it ends."""

from __future__ import annotations

import _thread
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType

#: Signals that ask a command to end; Windows has fewer.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

AGAIN = 0.05  # seconds until a lost Ctrl-C is repeated


class Stopped(KeyboardInterrupt):
    """A signal has asked the command to end.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def exit_code(stop: KeyboardInterrupt) -> int:
    """128 and the number of the signal, as shells say it: 130 after Ctrl-C."""
    return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)


@contextmanager
def on_signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Calls a function, in place of what would happen, at the first signal that asks the process to end.

    A second signal does what it would have done without this, and so does the first in a process that was
    forked meanwhile. Signals that are ignored stay ignored, as ``nohup`` wants it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, process = {number: signal.getsignal(number) for number in SIGNALS}, os.getpid()

    def once(number: int, frame: FrameType | None) -> None:
        restore()
        if os.getpid() == process:
            handle(number)
        else:
            os.kill(os.getpid(), number)

    def restore() -> None:
        for number, earlier in before.items():
            signal.signal(number, earlier)

    for number, earlier in before.items():
        if earlier not in (signal.SIG_IGN, None):
            signal.signal(number, once)
    try:
        yield
    finally:
        restore()


@contextmanager
def never_swallowed() -> Iterator[Callable[[], bool]]:
    """Repeats Ctrl-C where its exception is lost: in a callback, such as that of a weak reference, Python
    prints a traceback and goes on.

    Gives a function that says whether Ctrl-C was lost.
    """
    lost: list[threading.Timer] = []
    before = sys.unraisablehook

    def hook(unraisable) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            return before(unraisable)
        lost.append(threading.Timer(AGAIN, _interrupt))
        lost[-1].daemon = True
        lost[-1].start()

    sys.unraisablehook = hook
    try:
        yield lambda: bool(lost)
    finally:
        sys.unraisablehook = before
        for timer in lost:
            timer.cancel()


def _interrupt() -> None:
    """Ctrl-C for the main thread, also while it waits in a call of the system, where it would not see
    :func:`_thread.interrupt_main` before the call has ended.
    """
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    else:  # Windows
        _thread.interrupt_main()


def raise_stopped(number: int) -> None:
    """For :func:`on_signals`: every such signal ends the work as Ctrl-C does."""
    raise Stopped(number)


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


@contextmanager
def stops_at_once() -> Iterator[None]:
    """Lets Ctrl-C end the process without a word, as long as there is nothing to clean up: inside an import
    the exception would come out as a traceback, or as an error of the package that is being imported.
    """
    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if is_ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def stopped_by_signals() -> AbstractContextManager[None]:
    """Ctrl-C, SIGTERM and SIGHUP end a command in the same way: it tidies up. The processes of ``torchrun``
    leave signals alone: one of them may wait for another inside PyTorch, where no handler runs.
    """
    return nullcontext() if os.environ.get("WORLD_SIZE", "1") != "1" else on_signals(raise_stopped)
