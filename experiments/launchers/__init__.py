"""Launchers: how the cells of a table come to the machines that run them. All give the same scores.

A launcher is a function of cells, of where and how they run, and of the board that it tells of steps and of
cells that have ended. It returns when all have ended; what goes wrong with one cell leaves the others alone.
Whatever exception ends it (Ctrl-C too) ends what it has started; cells continue from their last saved state
next time.

Raises:
    UserError: no cell can run, or the cluster is gone.
"""

from collections.abc import Callable, Sequence

from experiments.launchers import local, ray, slurm
from experiments.launchers.board import Board
from experiments.training.cells import Cell
from experiments.training.execution import Execution
from experiments.training.launch import LOCAL, RAY, SLURM

Launcher = Callable[[Sequence[Cell], Execution, Board], None]

#: Name -> launcher.
LAUNCHERS: dict[str, Launcher] = {LOCAL: local.launch, SLURM: slurm.launch, RAY: ray.launch}
