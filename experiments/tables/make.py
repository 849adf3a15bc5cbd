"""Common part of the commands that make a table: list or execute its runs, print and save the table."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from attngraph.experiments.base.files import check_out, published, write_json, write_text
from attngraph.experiments.base.options import GridOptions, RowsOptions
from attngraph.experiments.base.shipped import DEFAULT
from attngraph.experiments.methods import method_named
from attngraph.experiments.runs.cells import has_scores
from attngraph.experiments.runs.device import processes
from attngraph.experiments.runs.execution import execution_of
from attngraph.experiments.runs.forgetting import Forgetting
from attngraph.experiments.runs.runner import run_cells
from attngraph.experiments.tables.details import details_markdown
from attngraph.experiments.tables.grid import Grid
from attngraph.experiments.tables.method_comparison import write_comparison
from attngraph.experiments.tables.plan import Plan, check_checkpoints, plan_table, tasks_of
from attngraph.experiments.tables.render import (
    aligned,
    render_latex,
    render_markdown,
    render_text,
    table_frame,
)
from attngraph.experiments.tables.runs import RESULTS, Run, distinct, runs_of, versions_of
from attngraph.experiments.tables.table import Table, make_table, published_in
from attngraph.experiments.tasks.task import Task

SIGNIFICANCE, DETAILS = "significance.json", "details.md"
STEM = "ablation"  # of the names of a table's files


def make(
    options: RowsOptions,
    seeds: Sequence[int] | None,
    grid: Grid,
    title: str,
    out: Path,
    folder: Path,
    stem: str = STEM,
    say: Callable[[str], None] = print,
) -> Table | None:
    """List the runs of a table (``--dry-run``), or execute the missing ones, print and save the table.

    Args:
        options: options of the command.
        seeds: the requested seeds; None for the grid's.
        grid: its runs and presentation.
        title: title of the table.
        out: folder of the runs.
        folder: folder of the table's files; several tables may share the runs of ``out``.
        stem: stem of the names of its files.
        say: called with the list or the table as text.

    Returns:
        The table; None if runs were listed, and in all processes except the first.

    Raises:
        UserError: a folder holds something else, or a run fails.
    """
    plan = plan_table(
        grid,
        out / "data",
        rows=options.rows,
        tasks=options.tasks,
        seeds=seeds,
        model=options.model,
        data=options.data,
    )
    execution = execution_of(options, out)
    is_main = processes(options.device).is_main_process
    if grid.forgetting and len(plan.tasks) != 1:
        raise UserError("forgetting is for a table of one task: name one with --tasks")
    other = grid.forgetting and tasks_of(grid, [grid.forgetting], options.data)[grid.forgetting]
    published_in(grid)  # an error before anything runs
    check_out(out)
    check_table(plan, folder, stem)
    if options.dry_run:
        if is_main:
            say(_listed(plan, out))
        return None
    check_named(options, grid)
    with execution.alone():
        check_checkpoints([cell for cell in plan.cells if not has_scores(cell, out)])
        results = run_cells(plan.cells, execution)
        if not is_main:
            return None
        runs = [
            Run(row, cell.task, cell.seed, results[cell], cell.folder(out))
            for row, cells in plan.rows.items()
            for cell in cells
        ]
        table = make_table(runs, plan.tasks, title, grid)
        about = {
            "model": ", ".join(dict.fromkeys(Path(cell.model or DEFAULT).name for cell in plan.cells)),
            "made_with": versions_of(runs),
        } | execution.conditions()
        paths = save_results(runs, plan.tasks, table, folder, about, stem)
        if other is not None:
            paths |= write_comparison(runs, Forgetting(other, plan.cells[0].data, options.device), folder)
    say(render_text(table, width=shutil.get_terminal_size((120, 40)).columns))
    say(f"\nsaved: {', '.join(str(path) for path in paths.values())}")
    return table


def save_results(
    runs: Sequence[Run],
    tasks: Mapping[str, Task],
    table: Table,
    out: Path,
    about: Mapping[str, Any] | None = None,
    stem: str = STEM,
) -> dict[str, Path]:
    """Write a table and its details; the files appear together when all are written.

    Args:
        runs: runs of the table.
        tasks: tasks of the table.
        table: result of :func:`attngraph.experiments.tables.table.make_table` for them.
        out: folder; its other files are kept.
        about: further content of ``results.json``, such as the versions of the runs.
        stem: stem of the names of the table's files.

    Returns:
        Content -> path: ``txt``, ``md``, ``tex``, ``csv`` for the table, ``png``, ``svg``, ``pdf``,
        ``caption.txt`` for its figure, ``significance``, ``details`` and ``results``.
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
    as a figure with its caption where there are any; returns suffix -> path.
    """
    from attngraph.analysis.plots.style import files, save  # matplotlib is slow to import
    from attngraph.experiments.tables.figure import draw_table

    folder = Path(folder)
    paths = {}
    for suffix, render in (("txt", render_text), ("md", render_markdown), ("tex", render_latex)):
        paths[suffix] = write_text(folder / f"{stem}.{suffix}", render(table))
    paths["csv"] = write_text(folder / f"{stem}.csv", table_frame(table).to_csv(index=False))
    if (drawn := draw_table(table)) is not None:
        save(drawn[0], folder / stem, drawn[1])
        paths |= {name.removeprefix(f"{stem}."): folder / name for name in files(stem)}
    return paths


def check_named(options: GridOptions, grid: Grid) -> None:
    """Raise UserError if a size needs a folder of data or a model that is not given."""
    for option, given, what in (
        ("--data", options.data, "the folder of the official files"),
        ("--model", options.model, "the model's folder or hub name"),
    ):
        if grid.scenes.published and given is None:
            raise UserError(f"{option} is missing: add {what}, or list the runs with --dry-run")


def folder_of(out: Path | None, size: str) -> Path:
    """The folder of the runs of a size's tables: ``--out``, or that of ``--size``."""
    return out or Path("runs") / f"tables-{Path(size).stem}"


def _listed(plan: Plan, out: Path) -> str:
    """The number of runs, of finished runs, and of training examples of the others; then a line for each row
    and task. The settings of finished runs are checked when the others are executed.
    """
    groups: dict[tuple[str, str, str], dict[int, bool]] = {}  # seed -> whether it is finished
    finished = examples = 0
    for cell in plan.cells:
        recipe, done = cell.recipe, has_scores(cell, out)
        what = f"learning rate {recipe.learning_rate:g}, {recipe.steps} steps" if recipe else "no training"
        groups.setdefault((method_named(cell.method).title, cell.task, what), {})[cell.seed] = done
        finished += done
        examples += 0 if done or recipe is None else recipe.steps * recipe.batch_size
    counts = f"{finished} finished, {len(plan.cells) - finished} to run"
    lines = [("Method", "Task", "Training", "Seeds", "Finished")]
    lines += [(*of, _ranges(seeds), f"{sum(seeds.values())} of {len(seeds)}") for of, seeds in groups.items()]
    return f"{len(plan.cells)} runs: {counts}, {examples:,} examples to train on\n\n{aligned(lines)}"


def _ranges(numbers: Iterable[int]) -> str:
    """``0-2, 5`` for 0, 1, 2 and 5."""
    first, parts = None, []
    for number in (ordered := sorted(numbers)):
        first = number if first is None else first
        if number + 1 not in ordered:
            parts.append(f"{first}-{number}" if number > first else f"{number}")
            first = None
    return ", ".join(parts)


def check_table(plan: Plan, folder: Path, stem: str) -> None:
    """Raise UserError if the folder has a table with further runs, or other files with a table's names."""
    file = folder / RESULTS
    others = [path for name in (f"{stem}.*", SIGNIFICANCE, DETAILS) for path in folder.glob(name)]
    if not file.exists():
        if others:
            raise UserError(f"{folder} holds a table without its {RESULTS}: use another --out")
        return
    more = set(runs_of(file)) - {(cell.label, cell.task, cell.seed) for cell in plan.cells}
    if more:
        raise UserError(
            f"{folder} holds a table with {len(more)} runs that this one does not have, such as "
            f"{' '.join(map(str, sorted(more)[0]))}: use another --out"
        )
