"""What the commands that make a table share: runs are listed, or run; the table is printed and saved."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from experiments.base.files import check_out, published, write_bytes, write_json, write_text
from experiments.base.messages import check_known
from experiments.base.options import GridOptions
from experiments.base.progress import note
from experiments.base.shipped import DEFAULT
from experiments.methods import method_named
from experiments.methods.method import canonical
from experiments.runs.answering import RANK
from experiments.runs.cells import Cell, has_scores
from experiments.runs.changes import changed, read_changes
from experiments.runs.device import processes
from experiments.runs.execution import Execution, execution_of, in_folder
from experiments.runs.plan import check_data
from experiments.runs.runner import prepare, run_cells
from experiments.tables.details import details_markdown
from experiments.tables.grid import Grid
from experiments.tables.plan import Plan, Wanted, check_checkpoints
from experiments.tables.render import render_latex, render_markdown, render_text, table_frame
from experiments.tables.runs import RESULTS, Run, distinct, runs_of, versions_of
from experiments.tables.table import Table, below_frozen, make_table, published_in
from experiments.tasks.task import Task

SIGNIFICANCE, DETAILS = "significance.json", "details.md"
STEM = "ablation"  # of the names of a table's files


@dataclass(frozen=True)
class Work:
    """A table to be made.

    Args:
        title: printed on top.
        plan: its cells.
        out: folder of the cells.
        folder: for the table's own files; several tables may share the cells of ``out``.
        grid: how it presents the runs.
        stem: of its files' names.
    """

    title: str
    plan: Plan
    out: Path
    folder: Path
    grid: Grid
    stem: str = STEM


def make(options: GridOptions, work: Work, dry_run: bool) -> int:
    """List the runs of a table (``--dry-run``), or run what is missing, print and save it; returns the exit
    code.

    Args:
        options: of the command.
        work: what is made.
        dry_run: list only.

    Raises:
        UserError: a folder holds something else, or a run fails.
    """
    execution = execution_of(options, work.out)
    set_runs = changed({}, read_changes(options.changes, Grid)).get("runs") or {}
    if set_runs.get("answering") == RANK and not any(task.ranks for task in work.plan.tasks.values()):
        raise UserError(
            f"--set runs.answering={RANK} changes nothing, since there is no list of answers for "
            f"{', '.join(work.plan.tasks)}: leave it out"
        )
    published_in(work.grid)  # an error before anything runs
    check_out(work.out)
    if dry_run:
        check_table(work)
        if processes(options.device).is_main_process:
            _list(work)
        return 0
    return in_folder(execution, lambda: _make(options, work, execution))


def _make(options: GridOptions, work: Work, execution: Execution) -> int:
    plan, is_main = work.plan, processes(options.device).is_main_process
    check_table(work)
    scored = _scored(work)
    check_checkpoints([cell for cell in plan.cells if cell not in scored])
    prepare(plan.cells, execution, plan.scenes, options.download)
    if is_main:
        note(f"{work.out}: {_count(plan, scored)} (Ctrl-C is safe, the same command goes on)")
    results = run_cells(plan.cells, execution)
    if not is_main:
        return 0
    made = [
        (cell, Run(row, cell.task, cell.seed, results[cell], cell.folder(work.out)))
        for row, cells in plan.rows.items()
        for cell in cells
    ]
    check_one_checkpoint(made)
    runs = [run for _, run in made]
    table = make_table(runs, plan.tasks, work.title, work.grid, [_borrowed(work), below_frozen(runs)])
    about = {"model": model_of(options), "made_with": versions_of(runs), **execution.conditions()}
    paths = save_results(runs, plan.tasks, table, work.folder, about, work.stem)
    print(render_text(table, width=shutil.get_terminal_size((120, 40)).columns))
    print(f"\nsaved: {', '.join(str(path) for path in paths.values())}")
    return 0


def save_results(
    runs: Sequence[Run],
    tasks: Mapping[str, Task],
    table: Table,
    out: Path,
    about: Mapping[str, Any] | None = None,
    stem: str = STEM,
) -> dict[str, Path]:
    """Write a table and all that stands behind it; the files appear together when all are written.

    Args:
        runs: of the table.
        tasks: of the table.
        table: as :func:`experiments.tables.table.make_table` makes it of them.
        out: folder; its other files stay.
        about: what else is written into ``results.json``, such as with what runs were made.
        stem: of the names of the table's own files.

    Returns:
        What a file holds -> its path: ``txt``, ``md``, ``tex``, ``csv`` and ``png`` for the table,
        ``significance``, ``details`` and ``results``.
    """
    with published(out) as part:
        written = save_table(table, part, stem)
        written["significance"] = write_json(part / SIGNIFICANCE, table.comparisons)
        written["details"] = write_text(part / DETAILS, details_markdown(runs, tasks, table))
        content = {"cells": [run.result for run in distinct(runs)], **(about or {})}
        written["results"] = write_json(part / RESULTS, content, default=float)
    return {what: out / path.name for what, path in written.items()}


def save_table(table: Table, folder: str | Path, stem: str = STEM) -> dict[str, Path]:
    """Write a table as ``<stem>.txt``, ``.md``, ``.tex`` and ``.csv``, and its differences from the baseline
    as ``.png`` where there are any; returns suffix -> path.
    """
    from experiments.tables.figure import draw_differences, png  # matplotlib is slow to import

    folder = Path(folder)
    paths = {}
    for suffix, render in (("txt", render_text), ("md", render_markdown), ("tex", render_latex)):
        paths[suffix] = write_text(folder / f"{stem}.{suffix}", render(table))
    paths["csv"] = write_text(folder / f"{stem}.csv", table_frame(table).to_csv(index=False))
    if (figure := draw_differences(table)) is not None:
        paths["png"] = write_bytes(folder / f"{stem}.png", png(figure))
    return paths


def check_named(options: GridOptions, grid: Grid) -> None:
    """Raise UserError where a size needs a folder of data or a model that nobody has named."""
    for option, given, what in (
        ("--data", options.data, "the folder that holds the official files"),
        ("--model", options.model, "the model's folder or hub name"),
    ):
        if grid.scenes.published and given is None:
            raise UserError(f"{option} is missing: give {what}, or list the runs with --dry-run")


def rows_in(given: Sequence[str] | None, known: Sequence[str]) -> list[str] | None:
    """The rows that are asked for, also by the names that papers give them (``adapter``); None for all.

    Raises:
        UserError: one is not known.
    """
    if given is None:
        return None
    names = list(dict.fromkeys(map(canonical, given)))
    check_known(names, known, "row")
    return names


def model_of(options: GridOptions) -> str:
    """The name of the model of a table: that of ``--model``, or the default."""
    return Path(options.model or DEFAULT).name


def folder_of(out: Path | None, size: str) -> Path:
    """The folder of the cells of a size's tables: ``--out``, or that of ``--size``."""
    return out or Path("runs") / f"tables-{Path(size).stem}"


def wanted_of(options: GridOptions, rows: Sequence[str] | None, seeds: range | None = None) -> Wanted:
    """What the options that all tables share ask for.

    Args:
        options: of the command.
        rows: only these; None for all.
        seeds: of all rows that train, in place of the grid's.
    """
    check_data(options.data)
    return Wanted(
        rows=rows,
        tasks=options.tasks,
        seeds=seeds,
        model=options.model,
        data=options.data,
    )


def _borrowed(work: Work) -> str:
    """A sentence where tasks take the settings that were chosen for others; empty where none does."""
    own, found = work.grid.own_settings, {}
    for cell in work.plan.cells:
        task, names = work.plan.tasks[cell.task], (cell.method, method_named(cell.method).leader)
        if cell.recipe is None or task.like is None or any(own.choice(name, task.name) for name in names):
            continue
        if any(own.choice(name, task.like) for name in names):
            found[task.name] = f"{task.title} those of {task.like}"
    return f"No settings were searched for these tasks yet: {', '.join(found.values())}" if found else ""


def _scored(work: Work) -> set[Cell]:
    """The cells that have scores already. Whether these are of the same settings is told when they run."""
    return {cell for cell in work.plan.cells if has_scores(cell, work.out)}


def _count(plan: Plan, scored: set[Cell]) -> str:
    """How many cells there are, and how many have scores already."""
    count = len(plan.cells)
    if len(scored) == count:
        return f"{count} cells, all with scores"
    have = "has" if len(scored) == 1 else "have"
    return f"{count} cells" + (f", of which {len(scored)} {have} scores" if scored else "")


def _list(work: Work) -> None:
    """Print the cells, which of them have scores already, and how much training the others take."""
    plan, scored = work.plan, _scored(work)
    width = max(map(len, plan.tasks))
    for cell in plan.cells:
        recipe = cell.recipe
        what = f"learning rate {recipe.learning_rate:g}, {recipe.steps} steps" if recipe else "no training"
        there = ", has scores" if cell in scored else ""
        print(f"{method_named(cell.method).title:<28} {cell.task:<{width}} seed {cell.seed}  {what}{there}")
    left = [cell for cell in plan.cells if cell not in scored]
    if not left:
        print(f"\n{_count(plan, scored)}")
        return
    examples = sum(cell.recipe.steps * cell.recipe.batch_size for cell in left if cell.recipe)
    total = f"{examples:,} examples to train on"
    print(f"\n{_count(plan, scored)}{'; the others' if scored else ''}, {total}")


def check_table(work: Work) -> None:
    """Raise UserError where the folder holds a table with more than these cells, or other files of a table's
    names.
    """
    folder, file = work.folder, work.folder / RESULTS
    others = [path for name in (f"{work.stem}.*", SIGNIFICANCE, DETAILS) for path in folder.glob(name)]
    if not file.exists():
        if others:
            raise UserError(f"{folder} holds a table without its {RESULTS}: give another --out")
        return
    more = set(runs_of(file)) - {(cell.label, cell.task, cell.seed) for cell in work.plan.cells}
    if more:
        raise UserError(
            f"{folder} holds a table with {len(more)} runs that this one would leave out, such as "
            f"{' '.join(map(str, sorted(more)[0]))}: give another --out"
        )


def check_one_checkpoint(made: Sequence[tuple[Cell, Run]]) -> None:
    """Raise UserError where runs that belong to one checkpoint started from different weights, such as on
    machines that made it for themselves.
    """
    first: dict[str | None, Run] = {}
    for cell, run in made:
        if cell.checkpoint and run.checkpoint != first.setdefault(cell.model, run).checkpoint:
            raise UserError(
                f"{run.folder} started from other weights than {first[cell.model].folder}, both under "
                f"the name {cell.model}: take the runs from one of the two away, and run them again from the "
                "other"
            )
