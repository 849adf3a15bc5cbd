"""Cells in processes of this machine, as many at a time as it has cores or GPUs for."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch

from attngraph.errors import UserError
from experiments.launchers.board import Board
from experiments.launchers.job import Job, outcome, prepare_process
from experiments.plugins import plugin_files
from experiments.training.cells import Cell
from experiments.training.execution import Execution, jobs_for
from experiments.training.lock import SharedLock
from experiments.training.stopping import end_with_parent


def launch(cells: Sequence[Cell], run: Execution, board: Board) -> None:
    """Run cells in worker processes, one for each: its peak memory is its own, and nothing of one run reaches
    the next. See :data:`experiments.launchers.LAUNCHERS`.
    """
    jobs = min(jobs_for(run.device, run.jobs, run.threads), len(cells))
    board.title(f"{len(cells)} cells, {jobs} at a time")
    context, waiting, free = _context(), list(reversed(cells)), list(reversed(range(jobs)))
    running: list[_Worker] = []
    try:
        while waiting or running:
            while waiting and free:
                running.append(_started(context, waiting.pop(), free.pop(), run))
            ready = multiprocessing.connection.wait(
                [end for worker in running for end in worker.ends], timeout=1
            )
            for worker in [one for one in running if any(end in ready for end in one.ends)]:
                is_over = worker.process.sentinel in ready
                board.advance(worker.cell, worker.receive())
                if is_over:
                    worker.process.join()
                    running.remove(worker)
                    free.append(worker.slot)
                    board.finish(worker.cell, worker.outcome())
    finally:
        for worker in running:
            worker.process.kill()
            worker.process.join()


def _context() -> Any:
    """How workers start: from a process that has imported what they need (4 seconds each), where the system
    can; else anew.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _started(context: Any, cell: Cell, slot: int, run: Execution) -> _Worker:
    reading, writing = context.Pipe(duplex=False)
    job = Job(cell, run, placed(run.device, slot), plugin_files())
    # No daemon: it may start loaders.
    process = context.Process(target=_work, args=(job, SharedLock(run.out), writing))
    process.start()
    writing.close()
    return _Worker(process, cell, slot, reading)


class _Worker:
    """A running cell. It sends a 1 for each step that it has done, and in the end its scores or an error.

    Nothing is shared but a pipe: a lock would stay locked if a worker were killed while it holds it.
    """

    def __init__(self, process: Any, cell: Cell, slot: int, reading: Any):
        self.process, self.cell, self.slot, self.reading = process, cell, slot, reading
        self.ends = [process.sentinel, reading]
        self.sent: dict[str, Any] | UserError | None = None

    def receive(self) -> int:
        """Take in what it has sent; returns the steps that it has done since."""
        steps = 0
        try:
            while self.reading.poll():
                message = self.reading.recv()
                if isinstance(message, int):
                    steps += message
                else:
                    self.sent = message
        except (EOFError, OSError):  # it has ended, perhaps in the middle of a message
            self.ends = [self.process.sentinel]
        return steps

    def outcome(self) -> dict[str, Any] | UserError:
        """What it has sent in the end; an error where it died without a word."""
        if self.sent is None:
            return UserError(
                f"its worker died (exit code {self.process.exitcode}; out of memory?): run the same command "
                "again to go on, perhaps with --jobs 1"
            )
        return self.sent


def placed(device: str, slot: int) -> str:
    """``cuda`` spreads the cells over all GPUs."""
    return f"cuda:{slot % torch.cuda.device_count()}" if device == "cuda" else device


def _work(job: Job, lock: SharedLock | None, writing: Any) -> None:
    """What a worker process does: one cell. It holds the folder's lock as long as it lives."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    prepare_process()
    with suppress(BrokenPipeError):  # the parent has ended, and this process is about to
        writing.send(outcome(job, lambda step: writing.send(1)))
