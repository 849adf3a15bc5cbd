"""Runs the cells of a table in worker processes, with one progress bar; finished cells are never run
again.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from attngraph.errors import UserError
from experiments.plugins import load_plugins, plugin_files
from experiments.progress import Progress, note
from experiments.training.cells import Cell, is_finished, read_scores, remove_states, run_cell
from experiments.training.device import processes
from experiments.training.execution import Execution, jobs_for
from experiments.training.lock import SharedLock
from experiments.training.recipe import Diverged
from experiments.training.stopping import end_with_parent

EVAL_STEPS = 60  # scoring a cell takes about as long as this many training steps


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
    todo = [cell for cell in cells if not is_finished(cell, run)]
    for cell in set(cells) - set(todo):
        remove_states(cell, run.out)  # of cells whose worker was killed when they were all but done
    if len(todo) < len(cells):
        note(f"{len(cells) - len(todo)} of {len(cells)} cells are finished already")
    jobs = min(jobs_for(run.device, run.jobs, run.threads), len(cells))
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
    with Progress(total=sum(map(_weight, cells)), unit="step", disable=not state.is_main_process) as bar:
        results = {}
        for cell in cells:
            device = str(state.device) if run.device == "cuda" else run.device
            try:
                results[cell] = run_cell(cell, run, device, lambda step: bar.update(1))
            except Diverged:  # in all processes
                if not may_diverge:
                    raise
                continue
            if state.is_main_process:
                note(_line(cell, results[cell]["scores"]))
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
        jobs: cells at the same time.
    """

    def __init__(self, todo: Sequence[Cell], run: Execution, jobs: int):
        self.run, self.waiting, self.jobs = run, list(reversed(todo)), jobs
        self.total = sum(map(_weight, todo))
        self.context = _context()
        self.running: list[_Worker] = []
        self.failures: dict[Cell, UserError] = {}

    def work(self) -> dict[Cell, UserError]:
        """Run the cells; returns what went wrong with those that failed."""
        free = list(reversed(range(self.jobs)))
        title = f"{len(self.waiting)} cells, {self.jobs} at a time"
        with Progress(total=self.total, unit="step", desc=title, smoothing=0.05, dynamic_ncols=True) as bar:
            try:
                while self.waiting or self.running:
                    while self.waiting and free:
                        self._start(self.waiting.pop(), free.pop())
                    sources = [end for worker in self.running for end in worker.ends]
                    ready = multiprocessing.connection.wait(sources, timeout=1)
                    for worker in [one for one in self.running if any(end in ready for end in one.ends)]:
                        is_over = worker.process.sentinel in ready
                        bar.update(worker.receive())
                        if is_over:
                            self.running.remove(worker)
                            free.append(worker.slot)
                            note(self._finish(worker))
            finally:
                for worker in self.running:
                    worker.process.kill()
                    worker.process.join()
        return self.failures

    def _start(self, cell: Cell, slot: int) -> None:
        reading, writing = self.context.Pipe(duplex=False)
        job = _Job(cell, self.run, _placed(self.run.device, slot), plugin_files(), SharedLock(self.run.out))
        process = self.context.Process(target=_work, args=(job, writing))  # no daemon: it may start loaders
        process.start()
        writing.close()
        self.running.append(_Worker(process, cell, slot, reading))

    def _finish(self, worker: _Worker) -> str:
        """Note a worker's outcome; returns a line about it."""
        worker.process.join()
        try:
            return _line(worker.cell, worker.result()["scores"])
        except UserError as error:
            self.failures[worker.cell] = error
            return _line(worker.cell, {}) + str(error)


class _Worker:
    """A running cell. It sends steps that it has done, as numbers, and in the end its scores or an error.

    Nothing is shared but a pipe: a lock would stay locked if a worker were killed while it holds it.
    """

    def __init__(self, process: Any, cell: Cell, slot: int, reading: Any):
        self.process, self.cell, self.slot, self.reading = process, cell, slot, reading
        self.ends = [process.sentinel, reading]
        self.outcome: dict[str, Any] | UserError | None = None

    def receive(self) -> int:
        """Take in what it has sent; returns the steps that it has done since."""
        steps = 0
        try:
            while self.reading.poll():
                message = self.reading.recv()
                if isinstance(message, int):
                    steps += message
                else:
                    self.outcome = message
        except (EOFError, OSError):  # it has ended, perhaps in the middle of a message
            self.ends = [self.process.sentinel]
        return steps

    def result(self) -> dict[str, Any]:
        """The scores that it sent.

        Raises:
            UserError: it sent an error, or died without a word.
        """
        if self.outcome is None:
            raise UserError(
                f"its worker died (exit code {self.process.exitcode}; out of memory?): run the same command "
                "again to go on, perhaps with --jobs 1"
            )
        if isinstance(self.outcome, UserError):
            raise self.outcome
        return self.outcome


class _Job(NamedTuple):
    """What a worker is told."""

    cell: Cell
    run: Execution
    device: str
    plugins: tuple[Path, ...]
    lock: SharedLock | None


def _line(cell: Cell, scores: dict[str, float]) -> str:
    """A cell's outcome in a line."""
    values = " ".join(f"{key.partition('.')[2]} {100 * value:.1f}" for key, value in scores.items())
    return f"{cell.label:>9} {cell.task:<9} seed {cell.seed}: {values}"


def _placed(device: str, slot: int) -> str:
    """``cuda`` spreads the cells over all GPUs."""
    return f"cuda:{slot % torch.cuda.device_count()}" if device == "cuda" else device


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


def _work(job: _Job, writing: Any) -> None:
    """What a worker process does: one cell."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    _prepare_process()
    with suppress(BrokenPipeError):  # the parent has ended, and this process is about to
        writing.send(_outcome(job, writing.send))


def _outcome(job: _Job, count: Callable[[int], None]) -> dict[str, Any] | UserError:
    """The scores of a worker's cell, or what went wrong."""
    counted = 0

    def step(_: int) -> None:
        nonlocal counted
        counted += 1
        count(1)

    try:
        load_plugins(job.plugins)
        result = run_cell(job.cell, job.run, job.device, step)
    except UserError as error:
        return error
    except OSError as error:
        return UserError(f"{error}: check the room on the disk and your rights, then run again")
    except Exception:
        return UserError(traceback.format_exc())
    count(_weight(job.cell) - counted)  # scoring, and what an earlier call had trained
    return result
