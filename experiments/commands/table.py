"""The tables of the paper.

All tables of a size share a folder, in which each has a folder of its own, so that runs that stand in several
tables are run once.
"""

from __future__ import annotations

from pathlib import Path

from attngraph.experiments.base.shipped import DEFAULT
from attngraph.experiments.commands.options import TableOptions
from attngraph.experiments.tables.grid import load_table
from attngraph.experiments.tables.make import folder_of, make


def run(options: TableOptions) -> int:
    """Run what is missing, then print and save the table."""
    grid = load_table(options.name, options.size, options.changes).with_settings(options.settings)
    name, size, out = Path(options.name).stem, Path(options.size).stem, folder_of(options.out, options.size)
    title = f"{grid.title}, size {size}, {Path(options.model or DEFAULT).name}"
    make(options, options.seeds, grid, title, out, out / name, name)
    return 0
