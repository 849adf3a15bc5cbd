"""Finished runs, read and checked in one place: from folders of tables, of single runs, and of archives.

An archive ``seed-00.tar.xz`` holds what every finished run of seed 0 left, under the names of the run folder
(``cells/ROW/TASK/seed0/scores.json`` and so on), with statistics as integers or float32 where that changes no
number by more than 1e-6. ``tar -xf`` gives a folder from which a table goes on.
"""

from __future__ import annotations

import errno
import json
import lzma
import os
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
from pydantic import BaseModel, ValidationError

from attngraph.errors import UserError
from experiments.base.messages import check_known, first_line
from experiments.base.progress import Progress
from experiments.methods import GraphAdapter, method_named
from experiments.methods.method import Method
from experiments.runs.saved import (
    AT_RATE,
    CONFIG,
    PREDICTIONS,
    SCORES,
    STATISTICS,
    read_config,
    read_result,
)
from experiments.tasks import TASKS

FILES = (CONFIG, SCORES, STATISTICS, PREDICTIONS)  # of a run, in an archive
RESULTS = "results.json"  # of a table
PATTERN = "seed-*.tar.xz"
MOST_FILES, MOST_BYTES = 100_000, 2**31  # of an archive, unpacked
_NAME = re.compile(r"cells/[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*/seed\d{1,10}/([a-z.]+)", re.ASCII)


class _Recipe(BaseModel):
    learning_rate: float
    steps: int
    batch_size: int


class _OfMethod(BaseModel):
    gnn_args: dict[str, Any] | None = None


class _Settings(BaseModel):
    """What is read of a run's settings."""

    weights: str
    recipe: _Recipe | None = None
    settings: _OfMethod | None = None


@dataclass(frozen=True)
class Run:
    """A method trained and scored on a task with a seed.

    Args:
        row: name of the method whose row shows the run. A run may occur in two rows.
        task: name of the task.
        seed: of the trained weights and of the order of the examples.
        result: content of the run's ``scores.json``.
        folder: with the run's ``config.json``, and ``statistics.npz``: column key -> statistics
            ``(images, K)``.
        place: what the user knows as the folder.
    """

    row: str
    task: str
    seed: int
    result: dict[str, Any]
    folder: Path
    place: str = ""

    @property
    def method(self) -> Method:
        """The row's method."""
        return method_named(self.row)

    @property
    def seconds(self) -> float:
        """Training and scoring time."""
        return self.result["train_seconds"] + self.result["eval_seconds"]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of its ``config.json``.

        Raises:
            UserError: the file cannot be read, or lacks what a run's settings have.
        """
        config = read_config(self.folder)
        try:
            _Settings.model_validate(config["settings"])
        except ValidationError as error:
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise UserError(
                f"{self.folder / CONFIG} is damaged ({reason}): delete the folder {self.folder} and run again"
            ) from None
        return config

    @property
    def settings(self) -> dict[str, Any]:
        """What decided its result."""
        return self.config["settings"]

    @property
    def checkpoint(self) -> str:
        """The digest of the pre-trained weights that the run started from."""
        return self.settings["weights"]

    @property
    def examined(self) -> tuple[Any, ...]:
        """What decides on which examples it was scored."""
        decided = (self.settings.get(name) for name in ("data", "split", "eval_examples"))
        return (*decided, self.result.get("examples"))

    def statistics(self, keys: Sequence[str]) -> list[np.ndarray]:
        """The statistics of these columns, each ``(images, K)``."""
        with np.load(self.folder / STATISTICS) as arrays:
            return [arrays[key].astype(np.float64) for key in keys]


# ---- reading --------------------------------------------------------------------------------------------


@contextmanager
def saved_runs(*folders: Path) -> Iterator[list[Run]]:
    """The finished runs of folders; their files can be read while the block runs.

    Args:
        folders: each with ``cells``, with archives (:data:`PATTERN`), of one of several tables that share
            their cells, or of a single run. The runs of ``attngraph sweep`` in them are no table's, and are
            left out.

    Raises:
        UserError: a folder holds no finished run, a file is damaged, or a row or task is not known.
    """
    with TemporaryDirectory(prefix="attngraph-") as scratch:
        cells: dict[Path, str] = {}
        for number, folder in enumerate(folders):
            found = _cells(folder, Path(scratch, str(number)))
            if not found:
                begun = unfinished(folder)
                raise UserError(
                    f"{folder} holds no finished run (cells/ROW/TASK/seedN/{SCORES}"
                    f"{f', {begun} that began' if begun else ''}): give the folder of a table, a run, or of "
                    f"archives ({PATTERN})"
                )
            cells |= found
        bar = Progress(list(cells.items()), desc="runs", unit="", leave=False, delay=2)
        yield [_read(cell, place) for cell, place in bar]


def unfinished(folder: Path) -> int:
    """How many runs in a folder have begun and not ended."""
    return sum(
        AT_RATE not in file.parts[-4] and not (file.parent / SCORES).is_file()
        for file in folder.glob(f"cells/*/*/seed*/{CONFIG}")
    )


def _cells(folder: Path, scratch: Path) -> dict[Path, str]:
    """The folders of finished runs, with what the user knows as their places."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the folder of a table, of a run, or of archives")
    if (folder / SCORES).is_file():
        return {folder: str(folder)}
    if (folder / "cells").is_dir():
        return {cell: str(cell) for cell in _finished(folder)}
    if (folder / RESULTS).is_file() and (folder.parent / "cells").is_dir():
        return _of_table(folder)
    cells = {}
    for archive in sorted(folder.glob(PATTERN)):
        place = scratch / archive.name
        unpack(archive, place)
        cells |= {cell: str(archive / cell.relative_to(place)) for cell in _finished(place)}
    return cells


def _finished(folder: Path) -> list[Path]:
    """The folders of a table's finished cells, by seed and then by name."""
    found = [
        file.parent
        for file in folder.glob(f"cells/*/*/seed*/{SCORES}")
        if AT_RATE not in file.parts[-4] and _seed(file.parent) >= 0
    ]
    return sorted(found, key=lambda cell: (_seed(cell), cell))


def _of_table(folder: Path) -> dict[Path, str]:
    """The runs of a table whose folder stands beside the cells that several tables share."""
    file = folder / RESULTS
    cells = [folder.parent / "cells" / row / task / f"seed{seed}" for row, task, seed in runs_of(file)]
    if missing := [cell for cell in cells if not (cell / SCORES).is_file()]:
        raise UserError(f"{missing[0]}, of which {file} tells, is missing: make the table again")
    return {cell: str(cell) for cell in cells}


def runs_of(file: Path) -> list[tuple[str, str, int]]:
    """Row, task and seed of the runs of a table, of its :data:`RESULTS`.

    Raises:
        UserError: the file is damaged.
    """
    try:
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        held = [(str(one["row"]), str(one["task"]), int(one["seed"])) for one in cells]
        if not held:
            raise ValueError("no runs")
        return held
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{file} cannot be read ({type(error).__name__}): make the table again, give another --out, or "
            "move it away"
        ) from None


def _seed(cell: Path) -> int:
    digits = cell.name.removeprefix("seed")
    return int(digits) if digits.isascii() and digits.isdigit() else -1


def _read(cell: Path, place: str) -> Run:
    """A finished run, named by its settings, or by its folder where these do not (earlier versions)."""
    try:
        settings = read_config(cell)["settings"]
        row, task = str(settings.get("label", cell.parts[-3])), str(settings.get("task", cell.parts[-2]))
        seed = settings.get("seed", _seed(cell))
        try:
            method_named(row)
            check_known([task], list(TASKS), "task")
        except UserError as error:
            raise UserError(f"{place}: {error}, or load its file with --plugin FILE") from None
        run = Run(row, task, seed, read_result(cell, row, TASKS[task], seed), cell, place)
        _ = run.config
        return run
    except UserError as error:
        if place == str(cell):
            raise
        reason = str(error).replace(str(cell), place).partition(": delete")[0]
        archive = Path(place).parents[3]
        raise UserError(reason if "--plugin" in reason else _damaged(archive, reason)) from None


def unpack(archive: Path, folder: Path) -> None:
    """Write an archive's files into a new folder.

    Raises:
        UserError: it cannot be read, or holds something else than whole cells.
    """
    if not archive.is_file():
        raise UserError(f"{archive} is no file: give a folder of archives {PATTERN}")
    held: set[str] = set()
    size = 0
    try:
        with tarfile.open(archive, "r|xz") as tar:
            for member in tar:
                match, size = _NAME.fullmatch(member.name), size + member.size
                if not member.isreg() or match is None or match[1] not in FILES or member.name in held:
                    raise UserError(
                        _damaged(archive, f"{member.name!r} is no file of a cell, or is there twice")
                    )
                if size > MOST_BYTES or len(held) >= MOST_FILES:
                    raise UserError(_damaged(archive, f"more than {MOST_BYTES} bytes or {MOST_FILES} files"))
                tar.extract(member, folder, filter="data")
                held.add(member.name)
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        raise UserError(_damaged(archive, f"{type(error).__name__}: {first_line(error)}")) from None
    cells = {name.rpartition("/")[0] for name in held}
    lacking = [f"{cell}/{file}" for cell in cells for file in FILES if f"{cell}/{file}" not in held]
    if lacking or not held:
        raise UserError(_damaged(archive, f"{min(lacking)} is missing" if lacking else "it holds no cells"))


def _damaged(archive: Path, reason: str) -> str:
    reason = reason.replace(f"{archive}{os.sep}", "")
    return f"{archive} is damaged ({reason}): restore the file, or leave it out"


# ---- what runs have in common ---------------------------------------------------------------------------


def distinct(runs: Sequence[Run]) -> list[Run]:
    """Each run once, under the first row that shows it."""
    first: dict[Path, Run] = {}
    for run in runs:
        first.setdefault(run.folder, run)
    return list(first.values())


def cannot_differ(one: Run, other: Run) -> bool:
    """Whether two rows show one run, or graph adapters that are the same in all but their names.

    The scores of these may differ, if they ran on machines whose arithmetic does.
    """
    if one.folder == other.folder:
        return True
    first, second = one.method, other.method
    if not (isinstance(first, GraphAdapter) and isinstance(second, GraphAdapter)):
        return False
    kinds = [(type(x).apply, type(x).config, x.vision) for x in (first, second)]
    settings = [
        {name: value for name, value in run.settings.items() if name not in ("label", "method")}
        for run in (one, other)
    ]
    return "gnn" in settings[0].get("settings", {}) and kinds[0] == kinds[1] and settings[0] == settings[1]


def versions_of(runs: Sequence[Run]) -> dict[str, dict[str, int]]:
    """With what runs were made: name of a package (or ``code``, ``machine``) -> version -> number of runs."""
    counts: dict[str, Counter[str]] = {}
    for run in distinct(runs):
        held = {**(run.config.get("versions") or {}), "machine": run.config.get("machine") or "unknown"}
        for name, version in held.items():
            counts.setdefault(name, Counter())[str(version)] += 1
    return {name: dict(versions) for name, versions in counts.items()}
