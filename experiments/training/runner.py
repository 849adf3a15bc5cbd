"""Runs the cells of a table, by a launcher or in the processes of ``torchrun``, with one progress bar;
finished cells are never run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attngraph.errors import UserError
from experiments.launchers import LAUNCHERS
from experiments.launchers.board import Board, line, said_of, weight
from experiments.launchers.job import prepare_process
from experiments.launchers.shared import end_earlier
from experiments.progress import Progress, note
from experiments.training.cells import (
    Cell,
    agreed,
    has_diverged,
    is_finished,
    read_scores,
    remove_states,
    run_cell,
)
from experiments.training.device import processes
from experiments.training.execution import Execution
from experiments.training.recipe import Diverged
from experiments.training.saved import DIVERGED


def run_cells(
    cells: Sequence[Cell], run: Execution, may_diverge: bool = False, blind: bool = False
) -> dict[Cell, dict[str, Any]]:
    """Run all cells and return their scores: those with saved scores are skipped, interrupted ones continue.

    The launcher that ``run`` names brings them to worker processes. Under ``torchrun`` or ``accelerate
    launch`` they run one after the other instead, each in all processes together.

    Args:
        cells: what to run.
        run: where and how.
        may_diverge: leave out cells whose loss is not finite, instead of failing; those that ended so in an
            earlier call are not run again.
        blind: show no scores while cells run.

    Raises:
        UserError: a folder holds another experiment, or cells failed; the others are finished then. Or the
            cluster is gone.
        KeyboardInterrupt: Ctrl-C; finished cells stay, running ones continue from their last saved state next
            time.
    """
    if processes(run.device).num_processes > 1:
        return _run_together(cells, run, may_diverge, blind)
    end_earlier(run.out)
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
    failures = _launched(todo, run, blind) if todo else {}
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


def _launched(cells: Sequence[Cell], run: Execution, blind: bool) -> dict[Cell, UserError]:
    """Run cells; returns what went wrong with those that failed."""
    with Board(cells, blind) as board:
        LAUNCHERS[run.launch.name](cells, run, board)
    return board.failures


def _run_together(
    cells: Sequence[Cell], run: Execution, may_diverge: bool = False, blind: bool = False
) -> dict[Cell, dict[str, Any]]:
    """The cells one after the other, each in all processes."""
    state = processes(run.device)
    prepare_process()
    with Progress(total=sum(map(weight, cells)), unit="step", disable=not state.is_main_process) as bar:
        results = {}
        for cell in cells:
            device = str(state.device) if run.device == "cuda" else run.device
            if may_diverge and agreed(
                lambda cell=cell: not is_finished(cell, run) and has_diverged(cell, run.out)
            ):
                continue
            try:
                results[cell] = run_cell(cell, run, device, lambda step: bar.update(1))
            except Diverged:  # in all processes
                if not may_diverge:
                    raise
                continue
            if state.is_main_process:
                note(line(cell, said_of(results[cell], blind)))
    return results
