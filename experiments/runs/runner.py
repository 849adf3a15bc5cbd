"""Runs the cells of a table: what they share is made once, then an engine (or the processes of ``torchrun``)
runs them, with one progress bar; finished cells are never run again.
"""

from __future__ import annotations

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
from experiments.base.messages import first_line
from experiments.base.progress import Progress, note
from experiments.methods import method_named
from experiments.methods.parameters import count_parameters
from experiments.models import ModelFamily, load_family
from experiments.runs.cells import (
    Cell,
    has_diverged,
    has_scores,
    is_finished,
    read_scores,
    remove_states,
    run_cell,
)
from experiments.runs.device import agreed, half_precision, processes
from experiments.runs.engines import (
    ENGINES,
    EVERY,
    FOLDER,
    Job,
    Outcome,
    begin_imports,
    cancel_earlier,
    prepare_process,
)
from experiments.runs.execution import Execution
from experiments.runs.experiment import Diverged, Scenes
from experiments.runs.plugins import plugin_files
from experiments.runs.saved import DIVERGED, read_config
from experiments.tasks import TASKS

EVAL_STEPS = 60  # scoring a cell takes about as long as this many training steps
LATE = 60.0  # seconds after which a file system shows what another machine has written


# ---- before anything runs ----------------------------------------------------------------------------------


def trained_in_words(cell: Cell, family: ModelFamily) -> str:
    """What is trained, in words; the settings are tried on the model before anything is written.

    Args:
        cell: the experiment.
        family: its model, to which the method is applied in place.

    Raises:
        UserError: the method cannot take its settings.
    """
    method = method_named(cell.method)
    try:
        tuned = method.apply(family, cell.settings)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"settings: {method.name} cannot take them ({first_line(error)}): correct them, or leave them out"
        ) from None
    counted = count_parameters(tuned)
    words = f"{method.title} on {TASKS[cell.task].title}, seed {cell.seed}: {family.title}"
    if cell.recipe is None:
        return f"{words}, nothing is trained"
    recipe = cell.recipe
    return (
        f"{words}, {counted.trained:,} parameters are trained, {counted.shares['model']:.2%} of the model's "
        f"{counted.model:,}; {recipe.steps} steps of {recipe.batch_size} examples, learning rate "
        f"{recipe.learning_rate:g}"
    )


def check_recipes(cells: Sequence[Cell], device: str) -> None:
    """Checks that recipes can be followed here: batches divide evenly, the device has the precision.

    Raises:
        UserError: one can't.
    """
    count = processes(device).num_processes
    for recipe in {cell.recipe for cell in cells if cell.recipe is not None}:
        half_precision(device, recipe.precision)
        recipe.per_process(count, recipe.batch_size)


def prepare(cells: Sequence[Cell], run: Execution, scenes: Scenes | None, download: bool = False) -> None:
    """Draw the data, or read them, and check all cells before anything long starts. Of several processes the
    first one does it, and all meet the error if there is one.

    Args:
        cells: of a table or a search.
        run: where and how they run.
        scenes: that are drawn; None where the user named a folder of data, or nothing is drawn.
        download: fetch a model that is not on this machine.

    Raises:
        UserError: the model cannot be loaded or trained, or a folder of data or of a cell holds something
            else.
    """
    check_recipes(cells, run.device)
    agreed(lambda: _prepare(cells, run, scenes, download))


def _prepare(cells: Sequence[Cell], run: Execution, scenes: Scenes | None, download: bool) -> None:
    transformers.utils.logging.disable_progress_bar()
    todo = [cell for cell in cells if not has_scores(cell, run.out)]
    for name, side in dict.fromkeys((cell.model, cell.side) for cell in todo):
        if not load_family(name, download, side).trains:
            raise UserError(
                f"--model {name} writes no answers, so it can't be trained on a task: give an "
                "image-and-text model that writes text"
            )
    for folder in {cell.folder(run.out) for cell in cells}:
        if folder.is_dir() and any(folder.iterdir()):
            read_config(folder)  # an error where it is damaged, before anything is written
    if todo and run.is_local and processes(run.device).num_processes == 1:
        begin_imports()
    if scenes is not None:
        scenes.draw(cells[0].data)
    for cell in cells:
        is_finished(cell, run)  # an error where its folder holds another experiment
    for cell in {(cell.task, cell.model, cell.side): cell for cell in todo}.values():
        for split in ("train", cell.split):
            TASKS[cell.task].examples(cell.data, split)  # an error where the data are damaged
        cell.description()  # or a list of answers


# ---- running them ------------------------------------------------------------------------------------------


def run_cells(cells: Sequence[Cell], run: Execution, may_diverge: bool = False) -> dict[Cell, dict[str, Any]]:
    """Run all cells and return their scores: those with saved scores are skipped, interrupted ones continue.

    The engine that ``run`` names brings them to worker processes. Under ``torchrun`` or ``accelerate
    launch`` they run one after the other instead, each in all processes together.

    Args:
        cells: what to run.
        run: where and how.
        may_diverge: leave out cells whose loss is not finite, instead of failing; those that ended so in an
            earlier call are not run again.

    Raises:
        UserError: a folder holds another experiment, or cells failed; the others are finished then. Or the
            cluster is gone.
        KeyboardInterrupt: Ctrl-C; finished cells stay, running ones continue from their last saved state next
            time.
    """
    if processes(run.device).num_processes > 1:
        return _run_together(cells, run, may_diverge)
    cancel_earlier(run.out)
    todo = [cell for cell in cells if not is_finished(cell, run)]
    for cell in set(cells) - set(todo):
        remove_states(cell, run.out)  # of cells whose worker was killed when they were all but done
    if len(todo) < len(cells):
        note(f"{len(cells) - len(todo)} of {len(cells)} cells are finished already")
    diverged = {cell for cell in todo if may_diverge and has_diverged(cell, run.out)}
    if diverged:
        note(
            f"{len(diverged)} of {len(cells)} cells have diverged already; without the {DIVERGED} in its "
            "folder one is run again"
        )
        todo = [cell for cell in todo if cell not in diverged]
    outcomes = _executed(todo, run) if todo else {}
    failures = {cell: error for cell, error in outcomes.items() if isinstance(error, UserError)}
    fatal = [
        f"{cell.name}: {error}"
        for cell, error in failures.items()
        if not (may_diverge and isinstance(error, Diverged))
    ]
    if fatal:
        raise UserError(
            f"{len(fatal)} of {len(cells)} cells failed, the others are finished: " + "; ".join(fatal)
        )
    return {cell: read_scores(cell, run.out) for cell in cells if cell not in {*failures, *diverged}}


def _executed(cells: Sequence[Cell], run: Execution) -> dict[Cell, Outcome]:
    """Run cells in worker processes, those with most training first; returns what each has ended with."""
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
            bar.set_description(f"{len(cells)} cell{'s' * (len(cells) > 1)}")
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
    return UserError(f"its worker is lost ({first_line(error)}): run the same command again to go on")


def _see(cell: Cell, out: Path) -> None:
    """Wait until this machine sees the files of a cell that another one has made."""
    until = time.monotonic() + LATE
    while not has_scores(cell, out) and time.monotonic() < until:
        with suppress(OSError):
            os.listdir(cell.folder(out))  # network file systems look again then
        time.sleep(0.1)


def longest_first(cells: Sequence[Cell]) -> list[Cell]:
    """Cells in the order in which machines are best used to the end: those with most training first."""
    return sorted(cells, key=lambda cell: -cell.recipe.steps * cell.recipe.batch_size if cell.recipe else 0)


def weight(cell: Cell) -> int:
    """Steps that a cell counts for in the bar: its scoring takes about as long as some training steps."""
    return (cell.recipe.steps if cell.recipe else 0) + EVAL_STEPS


def line(cell: Cell, outcome: Outcome) -> str:
    """A cell's outcome in a line."""
    if isinstance(outcome, UserError):
        said = str(outcome)
    else:
        scores = outcome["scores"].items()
        said = " ".join(f"{key.partition('.')[2]} {100 * value:.1f}" for key, value in scores)
    return f"{cell.label:>9} {cell.task:<9} seed {cell.seed}: {said}"


def _run_together(
    cells: Sequence[Cell], run: Execution, may_diverge: bool = False
) -> dict[Cell, dict[str, Any]]:
    """The cells one after the other, each in all processes."""
    state = processes(run.device)
    prepare_process()
    if run.device == "cuda":
        run = replace(run, device=str(state.device))
    results: dict[Cell, dict[str, Any]] = {}
    with Progress(total=sum(map(weight, cells)), unit="step", disable=not state.is_main_process) as bar:
        for cell in cells:
            if may_diverge and agreed(
                lambda cell=cell: not is_finished(cell, run) and has_diverged(cell, run.out)
            ):
                continue
            try:
                results[cell] = run_cell(cell, run, lambda step: bar.update(1))
            except Diverged:  # in all processes
                if not may_diverge:
                    raise
                continue
            if state.is_main_process:
                note(line(cell, results[cell]))
    return results
