"""What the user sees of cells that run somewhere: a bar of steps, a line for each cell that has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attngraph.errors import UserError
from experiments.progress import Progress, note
from experiments.training.cells import Cell

EVAL_STEPS = 60  # scoring a cell takes about as long as this many training steps


class Board:
    """Counts the steps of cells and keeps what went wrong; a launcher tells it.

    Args:
        cells: to be run.
        blind: show no scores.
    """

    def __init__(self, cells: Sequence[Cell], blind: bool = False):
        self.blind = blind
        self.failures: dict[Cell, UserError] = {}
        self._done = dict.fromkeys(cells, 0)
        total = sum(map(weight, cells))
        self._bar = Progress(total=total, unit="step", smoothing=0.05, dynamic_ncols=True)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.close()

    def title(self, text: str) -> None:
        """What stands before the bar."""
        self._bar.set_description(text)

    def reached(self, cell: Cell, steps: int) -> None:
        """A cell has done so many steps; fewer than before (it has begun again) change nothing."""
        more = min(steps, weight(cell)) - self._done[cell]
        if more > 0:
            self._done[cell] += more
            self._bar.update(more)

    def advance(self, cell: Cell, steps: int) -> None:
        """A cell has done more steps."""
        self.reached(cell, self._done[cell] + steps)

    def finish(self, cell: Cell, outcome: dict[str, Any] | UserError) -> None:
        """A cell has ended with the content of its ``scores.json``, or with an error."""
        if isinstance(outcome, UserError):
            self.failures[cell] = outcome
            note(line(cell, str(outcome)))
        else:
            self.reached(cell, weight(cell))  # scoring, and what an earlier call had trained
            note(line(cell, said_of(outcome, self.blind)))


def line(cell: Cell, outcome: str) -> str:
    """A cell's outcome in a line."""
    return f"{cell.label:>9} {cell.task:<9} seed {cell.seed}: {outcome}"


def said_of(result: dict[str, Any], blind: bool) -> str:
    """What is said of a finished cell: its scores, unless nobody is to see them."""
    if blind:
        return "finished"
    return " ".join(f"{key.partition('.')[2]} {100 * value:.1f}" for key, value in result["scores"].items())


def weight(cell: Cell) -> int:
    """Steps that a cell counts for in the bar: its scoring takes about as long as some training steps."""
    return (cell.recipe.steps if cell.recipe else 0) + EVAL_STEPS
