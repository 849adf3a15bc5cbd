"""What launchers on several machines share: a folder ``.launch`` in the folder of results, which all of them
see. Workers write there how far they are, and hold a lock on it as long as they work.

Nothing else passes between a command and its workers but a cell and the error that it may end with: scores
are read from the cells' own files.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from experiments.files import write_text
from experiments.launchers.board import Board
from experiments.launchers.job import Job, outcome, prepare_process
from experiments.plugins import plugin_files
from experiments.progress import note
from experiments.training.cells import Cell, has_scores, read_scores
from experiments.training.device import check_device
from experiments.training.execution import Execution
from experiments.training.lock import held, is_held

FOLDER = ".launch"
LOCK, STEPS, SLURM_JOBS = "lock", "steps", "slurm-jobs"
EVERY = 2.0  # seconds between two reports of a worker, and between two looks at them
WAIT = 60.0  # seconds in which workers that were told to end have ended
LATE = 60.0  # seconds after which a file system shows what another machine has written


@dataclass(frozen=True)
class FarJob:
    """What a worker on any machine is told.

    Args:
        job: the cell; its paths may be relative.
        place: working folder of the command.
        folder: of the launch, in ``.launch``; it is gone when the command has ended.
        number: names the worker's file in it.
    """

    job: Job
    place: Path
    folder: Path
    number: int

    def __call__(self) -> UserError | None:
        """Run the cell; returns the error that it ends with."""
        if not self.folder.is_dir():
            return self._too_late()
        try:
            os.chdir(self.place)
        except OSError as error:
            return UserError(
                f"{socket.gethostname()} sees no {self.place} ({error.strerror}): start the command in a "
                "folder that all machines share"
            )
        with held(self.folder.parent / LOCK):
            if not self.folder.is_dir():  # the command has ended just now, and may have been given again
                return self._too_late()
            prepare_process()
            try:
                check_device(self.job.device)
            except UserError as error:
                return UserError(f"{socket.gethostname()}: {error}")
            ended = outcome(self.job, _Steps(self.folder / STEPS / str(self.number)))
        return ended if isinstance(ended, UserError) else None

    def _too_late(self) -> UserError:
        out = self.folder.parent.parent
        why = (
            f"the command that began it has ended: give it again, {out} keeps what is finished"
            if out.is_dir()
            else f"it sees no {out}: put --out on a file system that all machines share"
        )
        return UserError(f"{socket.gethostname()} can't run it: {why}")


class _Steps:
    """Writes to a file how many steps it was told of."""

    def __init__(self, file: Path):
        self.file, self.count, self.written = file, 0, 0.0

    def __call__(self, step: int) -> None:
        self.count += 1
        if time.monotonic() - self.written >= EVERY:
            self.written = time.monotonic()
            with suppress(OSError):  # a full disk shows where it matters
                write_text(self.file, str(self.count))


class Launched:
    """The jobs of a command, and how far they are.

    Args:
        cells: number -> cell, in the order in which they begin.
        run: where and how.
        folder: of this launch.
    """

    def __init__(self, cells: Mapping[int, Cell], run: Execution, folder: Path):
        self.cells, self.run, self.folder = cells, run, folder
        plugins = tuple(file.absolute() for file in plugin_files())
        self.jobs = [
            FarJob(Job(cell, run, run.device, plugins), Path.cwd(), folder, number)
            for number, cell in cells.items()
        ]
        self.left = set(cells)
        self._looked = 0.0

    def look(self, board: Board) -> None:
        """Tell the board of the steps that workers have done."""
        if time.monotonic() - self._looked < EVERY:
            return
        self._looked = time.monotonic()
        for number in self.left:
            with suppress(OSError, ValueError):
                board.reached(self.cells[number], int((self.folder / STEPS / str(number)).read_text()))

    def finish(self, number: int, error: UserError | None, board: Board) -> None:
        """A worker has ended."""
        self.left.discard(number)
        cell = self.cells[number]
        try:
            board.finish(cell, error or self._scores(cell))
        except UserError as damaged:
            board.finish(cell, damaged)

    def _scores(self, cell: Cell) -> dict[str, Any]:
        until = time.monotonic() + LATE
        while not has_scores(cell, self.run.out) and time.monotonic() < until:
            with suppress(OSError):
                os.listdir(cell.folder(self.run.out))  # network file systems look again then
            time.sleep(0.1)
        return read_scores(cell, self.run.out)


def longest_first(cells: Sequence[Cell]) -> list[Cell]:
    """Cells in the order in which a cluster is best used to the end: those with most training first."""
    return sorted(cells, key=lambda cell: -cell.recipe.steps * cell.recipe.batch_size if cell.recipe else 0)


@contextmanager
def launched(cells: Sequence[Cell], run: Execution) -> Iterator[Launched]:
    """The jobs of a command and the folder that they share with it, which goes when the block ends; workers
    that find it gone do nothing.
    """
    above = run.out.absolute() / FOLDER
    above.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=above))
    folder.chmod(0o755)
    (folder / STEPS).mkdir()
    try:
        yield Launched(dict(enumerate(longest_first(cells))), run, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # a worker that has not ended yet holds it
            if not is_held(above / LOCK):
                shutil.rmtree(above)


def end_earlier(out: Path) -> None:
    """Ends what a killed command has left running in its folder of results, and removes what it left there.

    Raises:
        UserError: workers go on.
    """
    above = out.absolute() / FOLDER
    if not above.is_dir():
        return
    names = [name for file in above.glob(f"*/{SLURM_JOBS}") for name in file.read_text().split()]
    if names and shutil.which("scancel"):
        note(f"cancelling Slurm's jobs {', '.join(names)}, which an earlier command has left")
        subprocess.run(["scancel", *names], check=False, capture_output=True)
    for folder in above.glob("*/"):
        shutil.rmtree(folder, ignore_errors=True)  # workers that begin from now on find nothing to do
    until = time.monotonic() + WAIT
    while is_held(above / LOCK):
        if time.monotonic() > until:
            jobs = f" (Slurm's jobs {', '.join(names)})" if names else ""
            raise UserError(
                f"{out} is in use by workers of a command that has ended{jobs}: end them, or give another "
                "--out"
            )
        time.sleep(0.1)
    shutil.rmtree(above, ignore_errors=True)
