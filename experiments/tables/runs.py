"""Finished runs, read and checked in one place: from folders of tables, of single runs, and of archives.

An archive ``seed-00.tar.xz`` contains the files of all finished runs of seed 0, under the names of the run
folder (``cells/ROW/TASK/seed0/scores.json`` and so on), with statistics as integers or float32 if that
changes no number by more than 1e-6. ``tar -xf`` gives a folder with which a table can be continued.
"""

from __future__ import annotations

import json
import lzma
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from attngraph.errors import UserError
from attngraph.experiments.base.config import Config, checked
from attngraph.experiments.base.messages import check_known, first_line
from attngraph.experiments.base.progress import Progress
from attngraph.experiments.methods import GraphAdapter, method_named
from attngraph.experiments.methods.method import Method
from attngraph.experiments.runs.experiment import AT_RATE
from attngraph.experiments.runs.saved import CONFIG, SCORES, STATISTICS, read_config, read_result
from attngraph.experiments.tasks import TASKS

RESULTS = "results.json"  # of a table
PATTERN = "seed-*.tar.xz"


class _Recipe(Config, extra="ignore"):
    learning_rate: float
    steps: int
    batch_size: int


class _Settings(Config, extra="ignore"):
    """The fields read from a run's settings."""

    weights: str
    recipe: _Recipe | None = None
    settings: dict[str, Any] | None = None


@dataclass(frozen=True)
class Run:
    """A method trained and scored on a task with a seed.

    Args:
        row: name of the method whose row contains the run. A run may occur in two rows.
        task: name of the task.
        seed: seed of the trained weights and of the order of the examples.
        result: content of the run's ``scores.json``.
        folder: folder of the run's other files.
    """

    row: str
    task: str
    seed: int
    result: dict[str, Any]
    folder: Path

    def __str__(self) -> str:
        return f"{self.row} on {self.task} with seed {self.seed}"

    @property
    def method(self) -> Method:
        """The row's method."""
        return method_named(self.row)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of the run's ``config.json``."""
        return read_config(self.folder)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that determined the result."""
        return self.config["settings"]

    @property
    def checkpoint(self) -> str:
        """The digest of the pre-trained weights that the run started from."""
        return self.settings["weights"]

    @property
    def examined(self) -> tuple[Any, ...]:
        """The settings that determine the scored examples."""
        decided = (self.settings.get(name) for name in ("data", "split", "eval_examples"))
        return (*decided, self.result.get("examples"))

    @property
    def budget(self) -> tuple[Any, ...] | None:
        """The number of training steps, the size of their batches, and the number of training examples. None
        without training.
        """
        if (recipe := self.settings.get("recipe")) is None:
            return None
        return recipe["steps"], recipe["batch_size"], self.result["trained_on"]

    @property
    def identity(self) -> Any:
        """Equal for runs that differ only in the names of their rows: one run in two rows, and graph adapters
        with equal settings, whose scores may differ between machines.
        """
        kind = type(self.method)
        if not issubclass(kind, GraphAdapter) or "gnn" not in (self.settings.get("settings") or {}):
            return self.folder
        settings = {name: what for name, what in self.settings.items() if name not in ("label", "method")}
        return kind.apply, kind.config, self.method.hides_image, settings

    @cached_property
    def statistics(self) -> dict[str, np.ndarray]:
        """Column key -> statistics ``(images, K)``."""
        with np.load(self.folder / STATISTICS) as arrays:
            return {key: array.astype(np.float64) for key, array in arrays.items()}


@contextmanager
def saved_runs(*folders: Path) -> Iterator[list[Run]]:
    """The finished runs of folders; their files can be read while the block runs.

    Args:
        folders: each with ``cells``, with archives (:data:`PATTERN`), of one of several tables that share
            their runs, or of a single run. Runs of ``attngraph sweep`` in them do not belong to a table, and
            are skipped.

    Raises:
        UserError: a folder has no finished run, a file is damaged, or a row or task is unknown.
    """
    runs: list[Run] = []
    with TemporaryDirectory(prefix="attngraph-") as scratch:
        for number, folder in enumerate(dict.fromkeys(folders)):
            unpacked = Path(scratch, str(number))
            cells = _cells(folder, unpacked)
            if not cells:
                raise UserError(
                    f"{folder} has no finished run (`cells/ROW/TASK/seedN/{SCORES}`): use the folder of a "
                    f"table, of a run, or of archives ({PATTERN})"
                )
            try:
                runs += map(_read, Progress(cells, desc="runs", unit="", leave=False, delay=2))
            except UserError as error:
                if str(unpacked) not in str(error):
                    raise
                said = str(error).replace(str(unpacked), str(folder))
                said = re.sub("[:;] delete the folder .*", ": restore the archive, or remove it", said)
                raise UserError(said) from None
        yield runs


def _cells(folder: Path, unpacked: Path) -> list[Path]:
    """The folders of finished runs; archives are unpacked into a new folder."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: use the folder of a table, of a run, or of archives")
    if (folder / SCORES).is_file():
        return [folder]
    if (folder / "cells").is_dir():
        return _finished(folder)
    if (folder / RESULTS).is_file() and (folder.parent / "cells").is_dir():
        return _of_table(folder)
    cells = []
    for archive in sorted(folder.glob(PATTERN)):
        unpack(archive, unpacked / archive.name)
        cells += _finished(unpacked / archive.name)
    return cells


def _finished(folder: Path) -> list[Path]:
    """The folders of a table's finished runs, by seed and then by name."""
    cells = [file.parent for file in folder.glob(f"cells/*/*/seed*/{SCORES}")]
    found = [cell for cell in cells if AT_RATE not in cell.parts[-3] and _seed(cell) >= 0]
    return sorted(found, key=lambda cell: (_seed(cell), cell))


def _seed(cell: Path) -> int:
    digits = cell.name.removeprefix("seed")
    return int(digits) if digits.isdecimal() else -1


def _of_table(folder: Path) -> list[Path]:
    """The runs of a table whose folder is next to the runs shared by several tables."""
    file = folder / RESULTS
    cells = [folder.parent / "cells" / row / task / f"seed{seed}" for row, task, seed in runs_of(file)]
    if missing := [cell for cell in cells if not (cell / SCORES).is_file()]:
        raise UserError(f"{missing[0]}, which is listed in {file}, is missing: make the table again")
    return cells


def runs_of(file: Path) -> list[tuple[str, str, int]]:
    """Row, task and seed of the runs of a table, from its :data:`RESULTS`.

    Raises:
        UserError: the file is damaged.
    """
    try:
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        return [(str(one["row"]), str(one["task"]), int(one["seed"])) for one in cells]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{file} cannot be read ({type(error).__name__}): make the table again, use another --out, or "
            "move it away"
        ) from None


def _read(cell: Path) -> Run:
    """A finished run, with names from its settings, or from its folder if they are not there (earlier
    versions).
    """
    cell = cell.absolute()
    settings = read_config(cell)["settings"]
    checked(settings, _Settings, lambda _: str(cell / CONFIG), f"delete the folder {cell} and run again")
    row, task = str(settings.get("label", cell.parts[-3])), str(settings.get("task", cell.parts[-2]))
    seed = settings.get("seed", _seed(cell))
    try:
        method_named(row)
        check_known([task], list(TASKS), "task")
    except UserError as error:
        raise UserError(f"{cell}: {error}, or load its file with --plugin FILE") from None
    return Run(row, task, seed, read_result(cell, row, TASKS[task], seed), cell)


def unpack(archive: Path, folder: Path) -> None:
    """Write an archive's files into a new folder.

    Raises:
        UserError: the archive cannot be read.
    """
    try:
        with tarfile.open(archive, "r:xz") as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, lzma.LZMAError, EOFError, ValueError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{archive} is damaged ({reason}): restore the file, or remove it") from None


def distinct(runs: Sequence[Run]) -> list[Run]:
    """Each run once, under the first row that contains it."""
    first: dict[Path, Run] = {}
    for run in runs:
        first.setdefault(run.folder, run)
    return list(first.values())


def versions_of(runs: Sequence[Run]) -> dict[str, dict[str, int]]:
    """Software and machines of runs: name of a package (or ``machine``) -> version -> number of runs."""
    counts: dict[str, Counter[str]] = {}
    for run in distinct(runs):
        held = {**(run.config.get("versions") or {}), "machine": run.config.get("machine") or "unknown"}
        for name, version in held.items():
            counts.setdefault(name, Counter())[str(version)] += 1
    return {name: dict(versions) for name, versions in counts.items()}
