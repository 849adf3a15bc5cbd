"""Runs the cells of a table in worker processes, with one progress bar; finished cells are never run
again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from tqdm import tqdm

from attngraph.errors import UserError
from experiments.plugins import load_plugins, plugin_files
from experiments.training.cells import Cell, is_finished, read_scores, run_cell
from experiments.training.device import processes
from experiments.training.features import LIMIT_GB
from experiments.training.recipe import Diverged

EVAL_STEPS = 60  # scoring a cell takes about as long as this many training steps


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that runs cells."""
    parser.add_argument(
        "--model", help="checkpoint folder or hub name (default: the mini-BLIP of this package)"
    )
    parser.add_argument(
        "--download", action="store_true", help="fetch --model from the hub if it is not on this machine"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda (all GPUs), cuda:1, mps (default: cpu)")
    parser.add_argument("--jobs", type=int, help="runs at the same time (default: one per core or GPU)")
    parser.add_argument(
        "--cache-gb",
        type=float,
        default=LIMIT_GB,
        help="largest file of cached image states in GB, 0 for none (default: %(default)g)",
    )


@dataclass(frozen=True)
class Execution:
    """Where and how cells run.

    Args:
        out: folder of the table.
        device: ``cpu``, ``cuda`` (cells are spread over all GPUs), ``cuda:1``, ``mps``.
        jobs: cells at the same time; None as :func:`jobs_for` says.
        cache_gb: size of the largest file of cached image states, in 10^9 bytes.
    """

    out: Path
    device: str = "cpu"
    jobs: int | None = None
    cache_gb: float = LIMIT_GB


def jobs_for(device: str, asked: int | None) -> int:
    """Cells that run at the same time: as asked; else one per core (at most 8) on a CPU, one per GPU
    otherwise.

    Raises:
        UserError: less than one was asked for.
    """
    if asked is not None:
        if asked < 1:
            raise UserError(f"--jobs must be at least 1, got {asked}")
        return asked
    if device == "cpu":
        return min(8, os.cpu_count() or 1)
    return max(1, torch.cuda.device_count()) if device == "cuda" else 1


def run_cells(cells: Sequence[Cell], run: Execution, may_diverge: bool = False) -> dict[Cell, dict[str, Any]]:
    """Run all cells and return their scores: those with saved scores are skipped, interrupted ones continue.

    Cells run in worker processes. Under ``torchrun`` or ``accelerate launch`` they run one after the other
    instead, each in all processes together.

    Args:
        cells: what to run.
        run: where and how.
        may_diverge: leave out cells whose loss is not finite, instead of failing.

    Raises:
        UserError: a folder holds another experiment, or cells failed; the others are finished then.
        KeyboardInterrupt: Ctrl-C; finished cells stay, running ones continue from their last saved state next
            time.
    """
    if processes(run.device).num_processes > 1:
        return _run_together(cells, run, may_diverge)
    todo = [cell for cell in cells if not is_finished(cell, run.out)]
    if len(todo) < len(cells):
        print(f"{len(cells) - len(todo)} of {len(cells)} cells are finished already", file=sys.stderr)
    jobs = min(jobs_for(run.device, run.jobs), len(cells))
    failures = Pool(todo, run, jobs).work() if todo else {}
    fatal = [
        f"{cell.name}: {error}"
        for cell, error in failures.items()
        if not (may_diverge and isinstance(error, Diverged))
    ]
    if fatal:
        raise UserError(
            f"{len(fatal)} of {len(cells)} cells failed, the others are finished: " + "; ".join(fatal)
        )
    return {cell: read_scores(cell, run.out) for cell in cells if cell not in failures}


def _run_together(
    cells: Sequence[Cell], run: Execution, may_diverge: bool = False
) -> dict[Cell, dict[str, Any]]:
    """The cells one after the other, each in all processes."""
    state = processes(run.device)
    _prepare_process()
    with tqdm(total=sum(map(_weight, cells)), unit="step", disable=not state.is_main_process) as bar:
        results = {}
        for cell in cells:
            device = str(state.device) if run.device == "cuda" else run.device
            try:
                results[cell] = run_cell(cell, run.out, device, run.cache_gb, lambda step: bar.update(1))
            except Diverged:  # in all processes
                if not may_diverge:
                    raise
                continue
            if state.is_main_process:
                bar.write(_line(cell, results[cell]["scores"]), file=sys.stderr)
    return results


def _context() -> Any:
    """How workers start: from a process that has imported what they need (4 seconds each), where the system
    can; else anew.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


class Pool:
    """Worker processes, one for each cell: its peak memory is its own, and nothing of one run reaches the
    next.

    Args:
        todo: cells to run.
        run: where and how.
        jobs: cells at the same time. A worker's threads follow from it, and with them the last digits of
            scores: it must not depend on how many cells are left.
    """

    def __init__(self, todo: Sequence[Cell], run: Execution, jobs: int):
        self.run, self.waiting, self.jobs = run, list(reversed(todo)), jobs
        self.total = sum(map(_weight, todo))
        self.context = _context()
        self.steps = self.context.Value("l", 0)
        self.running: dict[int, _Worker] = {}
        self.failures: dict[Cell, UserError] = {}

    def work(self) -> dict[Cell, UserError]:
        """Run the cells; returns what went wrong with those that failed."""
        free = list(reversed(range(self.jobs)))
        title = f"{len(self.waiting)} cells, {self.jobs} at a time"
        with tqdm(total=self.total, unit="step", desc=title, smoothing=0.05, dynamic_ncols=True) as bar:
            try:
                while self.waiting or self.running:
                    while self.waiting and free:
                        self._start(self.waiting.pop(), free.pop())
                    for sentinel in multiprocessing.connection.wait(list(self.running), timeout=1):
                        worker = self.running.pop(sentinel)
                        free.append(worker.slot)
                        bar.write(self._finish(worker), file=sys.stderr)
                    bar.update(self.steps.value - bar.n)
            finally:
                for worker in self.running.values():
                    worker.process.kill()
                    worker.process.join()
        return self.failures

    def _start(self, cell: Cell, slot: int) -> None:
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        reading, writing = self.context.Pipe(duplex=False)
        job = _Job(cell, self.run, _placed(self.run.device, slot), threads, plugin_files())
        process = self.context.Process(target=_work, args=(job, self.steps, writing), daemon=True)
        process.start()
        writing.close()
        self.running[process.sentinel] = _Worker(process, cell, slot, reading)

    def _finish(self, worker: _Worker) -> str:
        """Note a worker's outcome; returns a line about it."""
        worker.process.join()
        try:
            return _line(worker.cell, _outcome(worker)["scores"])
        except UserError as error:
            self.failures[worker.cell] = error
            return _line(worker.cell, {}) + str(error)


class _Worker(NamedTuple):
    """A running cell."""

    process: Any
    cell: Cell
    slot: int
    reading: Any


class _Job(NamedTuple):
    """What a worker is told."""

    cell: Cell
    run: Execution
    device: str
    threads: int
    plugins: tuple[Path, ...]


def _line(cell: Cell, scores: dict[str, float]) -> str:
    """A cell's outcome in a line."""
    values = " ".join(f"{key.partition('.')[2]} {100 * value:.1f}" for key, value in scores.items())
    return f"{cell.label:>9} {cell.task:<9} seed {cell.seed}: {values}"


def _placed(device: str, slot: int) -> str:
    """``cuda`` spreads the cells over all GPUs."""
    return f"cuda:{slot % torch.cuda.device_count()}" if device == "cuda" else device


def _outcome(worker: _Worker) -> dict[str, Any]:
    """The scores that a worker sent.

    Raises:
        UserError: it sent an error, or died without a word.
    """
    try:
        outcome = worker.reading.recv()
    except EOFError:
        raise UserError(
            f"its worker died (exit code {worker.process.exitcode}; out of memory?): run the same command "
            "again to go on, perhaps with --jobs 1"
        ) from None
    if isinstance(outcome, UserError):
        raise outcome
    return outcome


def _weight(cell: Cell) -> int:
    """Steps that a cell counts for in the progress bar: its scoring takes about as long as some training
    steps.
    """
    return (cell.recipe.steps if cell.recipe else 0) + EVAL_STEPS


def _prepare_process() -> None:
    """Settings of every process that runs cells."""
    torch.set_flush_denormal(True)
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="Java not found")  # said once, by the parent
    # The Trainer's own call of a name that transformers has deprecated, and DDP's hint on speed.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
    warnings.filterwarnings("ignore", message=".*find_unused_parameters.*")


def _end_with_parent() -> None:
    """Wait for the end of the process that started this one, however it ended, and end this one too: else
    the same command, given again, would train the cell a second time in the same folder.
    """
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(job: _Job, steps: Any, writing: Any) -> None:
    """What a worker process does: one cell."""
    if multiprocessing.parent_process() is not None:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    torch.set_num_threads(job.threads)
    _prepare_process()
    counted = 0

    def count(more: int) -> None:
        nonlocal counted
        with steps.get_lock():
            steps.value += more
        counted += more

    try:
        load_plugins(job.plugins)
        result = run_cell(job.cell, job.run.out, job.device, job.run.cache_gb, lambda step: count(1))
    except UserError as error:
        writing.send(error)
        return
    except Exception:
        writing.send(UserError(traceback.format_exc()))
        return
    count(_weight(job.cell) - counted)  # scoring, and what an earlier call had trained
    writing.send(result)
