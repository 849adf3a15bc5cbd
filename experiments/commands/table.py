"""The tables of the paper.

All tables of a size share a folder, in which each has a folder of its own, so that runs that stand in several
tables are run once.
"""

from __future__ import annotations

from pathlib import Path

from experiments.commands.options import TableOptions
from experiments.tables.grid import load_table
from experiments.tables.make import Work, check_named, folder_of, make, model_of, rows_in, wanted_of
from experiments.tables.plan import plan_table


def run(options: TableOptions) -> int:
    """Run what is missing, then print and save the table."""
    grid = load_table(options.name, options.size, options.changes).with_settings(options.settings)
    name, size, out = Path(options.name).stem, Path(options.size).stem, folder_of(options.out, options.size)
    wanted = wanted_of(options, rows_in(options.rows, list(grid.counts)), options.seeds)
    plan = plan_table(grid, wanted, out / "data")
    if not options.dry_run:
        check_named(options, grid)
    title = f"{grid.title}, size {size}, {model_of(options)}"
    return make(options, Work(title, plan, out, out / name, grid, name), options.dry_run)
