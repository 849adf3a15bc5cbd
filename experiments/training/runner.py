"""Runs the cells of a table in worker processes, with one progress bar; finished cells are never run again."""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from tqdm import tqdm

from attngraph.errors import UserError
from experiments.training.cells import Cell, is_finished, run_cell
from experiments.training.loop import Diverged

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


def jobs_for(device: str, asked: int | None) -> int:
    """Cells that run at the same time: as asked; else one per core (at most 8) on a CPU, one per GPU otherwise.

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


def run_cells(
    cells: Sequence[Cell], out: Path, device: str = "cpu", jobs: int | None = None, may_diverge: bool = False
) -> dict[Cell, dict]:
    """Run all cells and return their scores.

    Args:
        cells: what to run; those with saved scores are skipped, interrupted ones continue.
        out: folder of the table.
        device: ``cpu``, ``cuda`` (cells are spread over all GPUs), ``cuda:1``, ``mps``.
        jobs: cells at the same time. Default: as :func:`jobs_for` says.
        may_diverge: leave out cells whose loss is not finite, instead of failing.

    Raises:
        UserError: a folder holds another experiment, or cells failed; the others are finished then.
        KeyboardInterrupt: Ctrl-C; finished cells stay, running ones continue from their last saved state next time.
    """
    jobs = jobs_for(device, jobs)
    todo = [cell for cell in cells if not is_finished(cell, out)]
    jobs = min(jobs, max(1, len(todo)))
    total = sum(_weight(cell) for cell in todo)
    if len(todo) < len(cells):
        print(f"{len(cells) - len(todo)} of {len(cells)} cells are finished already", file=sys.stderr)
    failures = _run(todo, out, device, jobs, total) if todo else {}
    fatal = [
        f"{_name(cell)}: {error}"
        for cell, error in failures.items()
        if not (may_diverge and isinstance(error, Diverged))
    ]
    if fatal:
        raise UserError(
            f"{len(fatal)} of {len(cells)} cells failed, the others are finished: " + "; ".join(fatal)
        )
    return {
        cell: run_cell(cell, out, device) for cell in cells if cell not in failures
    }  # all finished: only read


def _name(cell: Cell) -> str:
    return f"{cell.row} {cell.task} seed {cell.seed}"


def _run(todo: list[Cell], out: Path, device: str, jobs: int, total: int) -> dict[Cell, UserError]:
    """Runs the cells; returns what went wrong with those that failed."""
    # A process per cell: its peak memory is its own, and nothing of one run reaches the next.
    context = multiprocessing.get_context("spawn")
    steps = context.Value("l", 0)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    waiting, running, failures = list(reversed(todo)), {}, {}
    free = list(reversed(range(jobs)))
    with tqdm(
        total=total,
        unit="step",
        desc=f"{len(todo)} cells, {jobs} at a time",
        smoothing=0.05,
        dynamic_ncols=True,
    ) as bar:
        try:
            while waiting or running:
                while waiting and free:
                    slot, cell = free.pop(), waiting.pop()
                    reading, writing = context.Pipe(duplex=False)
                    process = context.Process(
                        target=_work, args=(cell, out, _placed(device, slot), threads, steps, writing)
                    )
                    process.start()
                    writing.close()
                    running[process.sentinel] = process, cell, slot, reading
                for sentinel in multiprocessing.connection.wait(list(running), timeout=1):
                    process, cell, slot, reading = running.pop(sentinel)
                    process.join()
                    free.append(slot)
                    try:
                        scores = _outcome(process, reading)["scores"]
                        told = " ".join(f"{name} {100 * value:.1f}" for name, value in scores.items())
                    except UserError as error:
                        failures[cell], told = error, str(error)
                    bar.write(f"{cell.row:>9} {cell.task:<9} seed {cell.seed}: {told}", file=sys.stderr)
                bar.update(steps.value - bar.n)
        finally:
            for process, *_ in running.values():
                process.kill()
                process.join()
    return failures


def _placed(device: str, slot: int) -> str:
    """``cuda`` spreads the cells over all GPUs."""
    return f"cuda:{slot % torch.cuda.device_count()}" if device == "cuda" else device


def _outcome(process, reading) -> dict:
    """The scores that a worker sent.

    Raises:
        UserError: it sent an error, or died without a word.
    """
    try:
        outcome = reading.recv()
    except EOFError:
        raise UserError(
            f"its worker died (exit code {process.exitcode}; out of memory?): run the same command again to go "
            "on, perhaps with --jobs 1"
        ) from None
    if isinstance(outcome, UserError):
        raise outcome
    return outcome


def _weight(cell: Cell) -> int:
    """Steps that a cell counts for in the progress bar: its scoring takes about as long as some training steps."""
    return (cell.recipe.steps if cell.recipe else 0) + EVAL_STEPS


def _work(cell: Cell, out: Path, device: str, threads: int, steps, writing) -> None:
    """What a worker process does: one cell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="Java not found")  # said once, by the parent
    counted = 0

    def count(more: int) -> None:
        nonlocal counted
        with steps.get_lock():
            steps.value += more
        counted += more

    try:
        result = run_cell(cell, out, device, lambda step: count(1))
    except UserError as error:
        writing.send(error)
        return
    except Exception:
        writing.send(UserError(traceback.format_exc()))
        return
    count(_weight(cell) - counted)  # scoring, and what an earlier call had trained
    writing.send(result)
