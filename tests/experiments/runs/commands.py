"""Commands in processes of their own that start at once, and what becomes of them when they are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from attngraph.experiments.base.files import is_running
from attngraph.experiments.cli import main
from attngraph.experiments.commands import ablation, pretrain

IMPORTED = (ablation, pretrain)  # before the processes start
PATIENCE = 240  # seconds for a command on a busy machine


def _command(words: list[str], said: str) -> None:
    os.setsid()
    with open(said, "ab", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    sys.exit(main(words))


class Command:
    """A command in a session of its own.

    Args:
        words: after ``attngraph``.
        said: gets what it prints.
    """

    def __init__(self, words: list[str], said: Path):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self.said = said
        self.process = context.Process(target=_command, args=([str(word) for word in words], str(said)))
        self.process.start()

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """Its exit code, negative after a signal; None if it runs on."""
        self.process.join(seconds)
        return self.process.exitcode

    def wait_until(self, seen: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Whether something was seen while the command ran."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.exitcode is None:
            if seen():
                return True
            time.sleep(0.001)
        return False

    def kill(self, number: int, group: bool = False) -> None:
        """Sends a signal to the command alone, or to its workers too."""
        with suppress(ProcessLookupError):  # it was quicker
            (os.killpg if group else os.kill)(self.process.pid, number)

    def rest(self, seconds: float = 60) -> list[int]:
        """Processes of its session that still run after it has ended, given some time: the server that forks
        workers notices only when it has imported all that they need.
        """
        until = time.monotonic() + seconds
        while (left := self._members()) and time.monotonic() < until:
            time.sleep(0.02)
        return left

    def _members(self) -> list[int]:
        members = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
            except OSError:
                continue
            if session == self.process.pid and is_running(int(folder.name)):
                members.append(int(folder.name))
        return members
