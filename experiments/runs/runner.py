"""Executes the runs of a table: shared data are prepared once, then an engine (or the processes of
``torchrun``) executes the runs, with one progress bar; finished runs are never repeated.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers

from attngraph.errors import UserError
from attngraph.experiments.base.messages import first_line
from attngraph.experiments.base.progress import Progress, note
from attngraph.experiments.methods import method_named
from attngraph.experiments.models import load_family
from attngraph.experiments.runs.cells import check_folder_of, has_scores, read_scores, remove_states, run_cell
from attngraph.experiments.runs.device import agreed, half_precision, processes
from attngraph.experiments.runs.engines import (
    ENGINES,
    EVERY,
    FOLDER,
    Job,
    Outcome,
    begin_imports,
    cancel_earlier,
    prepare_process,
)
from attngraph.experiments.runs.execution import Execution
from attngraph.experiments.runs.experiment import Cell, Diverged
from attngraph.experiments.runs.plugins import plugin_files
from attngraph.experiments.runs.saved import DIVERGED, read_config

EVAL_STEPS = 60  # scoring a cell takes about as long as this many training steps
LATE = 60.0  # seconds after which a file system shows what another machine has written


def run_cells(cells: Sequence[Cell], run: Execution, may_diverge: bool = False) -> dict[Cell, dict[str, Any]]:
    """Execute all runs and return their scores: finished runs are skipped, interrupted runs continue.

    The engine of ``run`` distributes them to worker processes. Under ``torchrun`` or ``accelerate launch``
    they are executed one after the other instead, each in all processes together.

    Args:
        cells: the runs.
        run: where and how they are executed.
        may_diverge: skip runs whose loss is not finite, instead of failing; runs that diverged in an earlier
            call are not repeated.

    Raises:
        UserError: a model cannot be loaded or trained, a folder of data or of a run holds something else, or
            runs failed (after all others have finished), or the cluster is lost.
        KeyboardInterrupt: Ctrl-C; finished runs are kept, active ones continue from their last saved state
            next time.
    """
    state = processes(run.device)
    outcomes: dict[Cell, Outcome] = agreed(lambda: _found(cells, run, may_diverge))
    todo = [cell for cell in cells if cell not in outcomes]
    if state.is_main_process:
        there = f", {len(outcomes)} of them finished already" * bool(outcomes)
        note(f"{run.out}: {len(cells)} runs{there} (Ctrl-C is safe: the same command continues)")
    if todo:
        outcomes |= _run_together(todo, run) if state.num_processes > 1 else _executed(todo, run)
    failed = {cell.name: error for cell, error in outcomes.items() if isinstance(error, UserError)}
    # of those with the same error one is named
    fatal = {
        str(error): f"{name}: {error}"
        for name, error in failed.items()
        if not (may_diverge and isinstance(error, Diverged))
    }
    if fatal and len(cells) == 1:
        raise outcomes[cells[0]]
    if fatal:
        said = "; ".join(fatal.values())
        raise UserError(f"{len(failed)} of {len(cells)} runs failed, the others are finished: {said}")
    return {cell: outcomes[cell] for cell in cells if cell.name not in failed}


def _found(cells: Sequence[Cell], run: Execution, may_diverge: bool) -> dict[Cell, Outcome]:
    """The outcomes of finished runs, after a check that everything needed by the other runs exists."""
    transformers.utils.logging.disable_progress_bar()
    todo = [cell for cell in cells if not has_scores(cell, run.out)]
    count = processes(run.device).num_processes
    for recipe in (cell.recipe for cell in todo if cell.recipe is not None):
        if run.is_local:
            half_precision(run.device, recipe.precision)
        recipe.per_process(count, recipe.batch_size)
    check_models(todo, run.download)
    for folder in (cell.folder(run.out) for cell in cells):
        if folder.is_dir() and any(folder.iterdir()):
            read_config(folder)  # an error where it is damaged, before anything is written
    cancel_earlier(run.out)
    if todo and run.is_local and count == 1:
        begin_imports()
    for data, scenes in {cell.data: cell.scenes for cell in cells if cell.scenes is not None}.items():
        scenes.draw(data)
    found: dict[Cell, Outcome] = {}
    for cell in cells:
        check_folder_of(cell, run)
        file = cell.folder(run.out) / DIVERGED
        if has_scores(cell, run.out):
            found[cell] = read_scores(cell, run.out)
            remove_states(cell, run.out)  # of cells whose worker was killed when they were all but done
        elif may_diverge and file.exists():
            found[cell] = Diverged(f"{file} exists: delete it to repeat the run")
    return found


def check_models(cells: Sequence[Cell], download: bool) -> None:
    """Load each model and check it with the settings of its first run.

    Raises:
        UserError: a model cannot be loaded or trained, or the settings do not fit it.
    """
    for cell in {(cell.model, cell.side): cell for cell in reversed(cells)}.values():
        family = load_family(cell.model, download, cell.side)
        if not family.trains:
            raise UserError(
                f"--model {cell.model} does not generate text, so it cannot be trained on a task: use an "
                "image-and-text model that generates text"
            )
        method_named(cell.method).apply(family, cell.settings)  # an error of the user's in them


def _executed(cells: Sequence[Cell], run: Execution) -> dict[Cell, Outcome]:
    """Execute runs in worker processes, those with the most training first; returns their outcomes."""
    plugins = tuple(file.absolute() for file in plugin_files())
    (run.out / FOLDER).mkdir(parents=True, exist_ok=True)
    jobs = [Job(cell, run, plugins, Path.cwd()) for cell in longest_first(cells)]
    outcomes: dict[Cell, Outcome] = {}
    left: dict[Future[Outcome], Job] = {}
    try:
        with (
            Progress(total=sum(map(weight, cells)), unit="step", smoothing=0.05, dynamic_ncols=True) as bar,
            ENGINES[run.launcher](jobs, run) as futures,
        ):
            left |= zip(futures, jobs)
            while left:
                for future in wait(left, EVERY, FIRST_COMPLETED).done:
                    cell = left.pop(future).cell
                    outcomes[cell] = outcome = _outcome(future)
                    if not (run.is_local or isinstance(outcome, UserError)):
                        _see(cell, run.out)
                    note(line(cell, outcome))
                reached = sum(map(weight, outcomes))
                reached += sum(min(job.step(), weight(job.cell) - EVAL_STEPS) for job in left.values())
                bar.update(max(0, reached - bar.n))
    finally:
        if run.is_local or not left:  # else jobs that end in their own time still hold their locks
            shutil.rmtree(run.out / FOLDER, ignore_errors=True)
    return outcomes


def _outcome(future: Future[Outcome]) -> Outcome:
    error = future.exception()
    if error is None:
        return future.result()
    return UserError(f"worker lost ({first_line(error)}): run the same command again to continue")


def _see(cell: Cell, out: Path) -> None:
    """Wait until the files of a run that another machine has written are visible on this machine."""
    until = time.monotonic() + LATE
    while not has_scores(cell, out) and time.monotonic() < until:
        with suppress(OSError):
            os.listdir(cell.folder(out))  # network file systems look again then
        time.sleep(0.1)


def longest_first(cells: Sequence[Cell]) -> list[Cell]:
    """Runs in an order that keeps all workers busy until the end: those with the most training first.

    The time of a step is not known, so numbers of training examples are rounded to powers of two, and runs of
    the same power stay in the table's order, in which tasks alternate. (In the quick table, captions take the
    longest but have fewer examples than questions. Sorted by exact number, they would all be last, and one
    worker would wait for the other.)
    """

    def examples(cell: Cell) -> int:
        return cell.recipe.steps * cell.recipe.batch_size if cell.recipe else 0

    return sorted(cells, key=lambda cell: -round(math.log2(1 + examples(cell))))


def weight(cell: Cell) -> int:
    """Number of steps of a run in the progress bar, in which scoring counts as some training steps."""
    return (cell.recipe.steps if cell.recipe else 0) + EVAL_STEPS


def line(cell: Cell, outcome: Outcome) -> str:
    """The outcome of a run, on one line."""
    if isinstance(outcome, UserError):
        said = str(outcome)
    else:
        scores = outcome["scores"].items()
        said = " ".join(f"{key.partition('.')[2]} {100 * value:.1f}" for key, value in scores)
    return f"{cell.label:>9} {cell.task:<9} seed {cell.seed}: {said}"


def _run_together(cells: Sequence[Cell], run: Execution) -> dict[Cell, Outcome]:
    """Execute runs one after the other, each in all processes."""
    state = processes(run.device)
    prepare_process()
    if run.device == "cuda":
        run = replace(run, device=str(state.device))
    outcomes: dict[Cell, Outcome] = {}
    with Progress(total=sum(map(weight, cells)), unit="step", disable=not state.is_main_process) as bar:
        for cell in cells:
            try:
                outcomes[cell] = run_cell(cell, run, lambda step: bar.update(1))
            except Diverged as error:  # in all processes
                outcomes[cell] = error
            if state.is_main_process:
                note(line(cell, outcomes[cell]))
    return outcomes
