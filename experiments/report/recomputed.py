"""The comparisons of a table, recomputed from its cells or from archives of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attngraph.errors import UserError
from experiments.known import check_known
from experiments.methods import method_named
from experiments.report.archive import PATTERN, cell_of, finished_cells, unpack
from experiments.report.columns import WAY, scored, table_columns
from experiments.report.comparison import about_same_runs, compare_pairs, contenders, same_runs
from experiments.report.rows import score_frame
from experiments.report.runs import Run
from experiments.report.way import way_between
from experiments.tasks import TASKS
from experiments.tasks.task import Task
from experiments.training.saved import read_result


@contextmanager
def saved_runs(folder: Path) -> Iterator[list[Run]]:
    """The finished runs of a run folder, or of a folder of archives; they can be read while the block runs.

    Raises:
        UserError: the folder holds neither, a file is damaged, or a row or task is not known.
    """
    archives = sorted(folder.glob(PATTERN))
    with TemporaryDirectory(prefix="attngraph-") as scratch:
        places = {folder: folder}  # where cells are -> what the user knows as their place
        if archives and not (folder / "cells").is_dir():
            places = {Path(scratch, archive.name): archive for archive in archives}
            for place, archive in places.items():
                unpack(archive, place)
        runs = [
            _run(cell, source / cell.relative_to(place))
            for place, source in places.items()
            for cell in finished_cells(place)
        ]
        if not runs:
            raise UserError(
                f"{folder} holds no finished cells (cells/ROW/TASK/seedN) and no archives ({PATTERN}): "
                "give the folder of a table"
            )
        yield runs


def _run(cell: Path, shown: Path) -> Run:
    """A finished cell; ``shown`` names it in errors."""
    row, task, seed = cell_of(cell)
    try:
        method_named(row)
        check_known([task], list(TASKS), "task")
    except UserError as error:
        raise UserError(f"{shown}: {error}, or load its file with --plugin FILE") from None
    return Run(row, task, seed, read_result(cell, row, TASKS[task], seed), cell)


def recompute(
    runs: Sequence[Run],
    baselines: Sequence[str],
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> tuple[list[dict[str, Any]], Mapping[str, str], str]:
    """All comparisons with some baselines, the heading of each column, and a sentence on rows that
    differ in nothing but their names and so are not compared.

    Args:
        runs: as :func:`saved_runs` reads them.
        baselines: names of rows.
        rows: names of the rows that are compared with each of them; None for the GNN adapters and pGNN's
            controls.
        columns: keys of columns; None for all.

    Raises:
        UserError: a row or column is not among the runs, or nothing can be compared.
    """
    held = list(dict.fromkeys(run.row for run in runs))
    check_known(baselines, held, "row")
    if rows is None:
        rows = contenders(runs)
    else:
        check_known(rows, held, "row")
    names = {run.task for run in runs}
    every = {name: task for name, task in TASKS.items() if name in names}
    tasks: dict[str, Task] = scored(every, runs)
    shown = table_columns(tasks)
    way, _ = way_between(score_frame(runs, every), shown)
    means = {WAY.key: way.weights} if way else {}
    headings = {column.key: column.heading for column in (*shown, *((WAY,) if way else ()))}
    if columns is not None:
        check_known(columns, list(headings), "column")
    pairs = [(row, baseline) for baseline in baselines for row in rows if row != baseline]
    lines = compare_pairs(runs, tasks, pairs, columns=columns, means=means)
    about = about_same_runs(same_runs(runs, pairs), tasks)
    if not lines:
        reason = about[:1].lower() + about[1:-1] if about else "they share no seed, or none is a GNN adapter"
        raise UserError(
            f"no row can be compared with {', '.join(baselines)}: {reason}; name rows with --rows, of "
            f"{', '.join(held)}"
        )
    return lines, headings, about
