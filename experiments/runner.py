"""Runs the cells of a table in worker processes, with one progress bar; finished cells are never run again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
import transformers
from tqdm import tqdm

from attngraph.errors import UserError
from experiments.cells import Cell, is_finished, run_cell

_steps = None  # in a worker: the counter of all workers' steps


def default_jobs(device: str) -> int:
    """Cells that run at the same time: one per core (at most 8) on a CPU, one per GPU otherwise."""
    if device == "cpu":
        return min(8, os.cpu_count() or 1)
    return max(1, torch.cuda.device_count()) if device == "cuda" else 1


def run_cells(cells: Sequence[Cell], out: Path, device: str = "cpu", jobs: int | None = None) -> dict[Cell, dict]:
    """Run all cells and return their scores.

    Args:
        cells: what to run; those with saved scores are skipped, interrupted ones continue.
        out: folder of the table.
        device: ``cpu``, ``cuda`` (cells are spread over all GPUs), ``cuda:1``, ``mps``.
        jobs: cells at the same time.

    Raises:
        UserError: a folder holds another experiment, or a cell failed; finished cells stay.
        KeyboardInterrupt: Ctrl-C; finished cells stay, running ones continue from their last saved state next time.
    """
    todo = [cell for cell in cells if not is_finished(cell, out)]
    jobs = min(jobs or default_jobs(device), max(1, len(todo)))
    total = sum(_weight(cell) for cell in todo)
    if len(todo) < len(cells):
        print(f"{len(cells) - len(todo)} of {len(cells)} cells are finished already", file=sys.stderr)
    if todo:
        _run(todo, out, device, jobs, total)
    return {cell: run_cell(cell, out, device) for cell in cells}  # all finished: only read


def _run(todo: list[Cell], out: Path, device: str, jobs: int, total: int) -> None:
    context = multiprocessing.get_context("spawn")
    counter = context.Value("l", 0)
    order = context.Value("l", 0)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # A process per cell: its peak memory is its own, and nothing of one run reaches the next.
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker,
                               initargs=(counter, order, threads), max_tasks_per_child=1)
    bar = tqdm(total=total, unit="step", desc=f"{len(todo)} cells, {jobs} at a time", smoothing=0.05, dynamic_ncols=True)
    try:
        waiting = {pool.submit(_work, cell, out, device): cell for cell in todo}
        while waiting:
            done, _ = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
            bar.update(counter.value - bar.n)
            for future in done:
                cell = waiting.pop(future)
                result = future.result()
                scores = " ".join(f"{name} {100 * value:.1f}" for name, value in result["scores"].items())
                bar.write(f"{cell.row:>9} {cell.task:<9} seed {cell.seed}: {scores}", file=sys.stderr)
        pool.shutdown()
    except BaseException as error:
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise UserError("a worker process died (out of memory?): run the same command again to go on, perhaps with "
                            "--jobs 1") from None
        raise
    finally:
        bar.close()


def _weight(cell: Cell) -> int:
    """Steps that a cell counts for in the progress bar: its scoring takes about as long as some training steps."""
    return (cell.recipe.steps if cell.recipe else 0) + EVAL_STEPS


EVAL_STEPS = 60


def _start_worker(counter, order, threads: int) -> None:
    global _steps, _worker
    _steps = counter
    with order.get_lock():
        _worker = order.value
        order.value += 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="Java not found")  # said once, by the parent


def _work(cell: Cell, out: Path, device: str) -> dict:
    if device == "cuda":
        device = f"cuda:{_worker % torch.cuda.device_count()}"
    seen = 0

    def on_step(step: int) -> None:
        nonlocal seen
        with _steps.get_lock():
            _steps.value += step - seen if seen else 1
        seen = step

    result = run_cell(cell, out, device, on_step)
    with _steps.get_lock():
        _steps.value += _weight(cell) - seen
    return result
