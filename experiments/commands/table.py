"""The tables of the paper.

All tables of a size share a folder, in which each has a folder of its own, so that runs that stand in several
tables are run once.
"""

from __future__ import annotations

from pathlib import Path

from attngraph.errors import UserError
from experiments.base.shipped import DEFAULT
from experiments.commands.options import TableOptions
from experiments.runs.cells import IMAGE_STATES
from experiments.tables.grid import load_table
from experiments.tables.make import folder_of, make
from experiments.tables.plan import plan_table

SHARED = ("cells", "data", IMAGE_STATES)  # folders of --out in which runs keep something


def run(options: TableOptions) -> int:
    """Run what is missing, then print and save the table."""
    grid = load_table(options.name, options.size, options.changes).with_settings(options.settings)
    name, size, out = Path(options.name).stem, Path(options.size).stem, folder_of(options.out, options.size)
    if name in SHARED:
        raise UserError(
            f"{options.name}: runs keep something else in {out / name}: give the file another name"
        )
    plan = plan_table(
        grid,
        out / "data",
        rows=options.rows,
        tasks=options.tasks,
        seeds=options.seeds,
        model=options.model,
        data=options.data,
    )
    title = f"{grid.title}, size {size}, {Path(options.model or DEFAULT).name}"
    return make(options, grid, plan, title, out, out / name, name, options.dry_run)
