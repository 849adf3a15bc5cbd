"""The tables of the paper.

All tables of a size share a folder, with a subfolder for each table, so that runs that belong to several
tables are executed once.
"""

from __future__ import annotations

from pathlib import Path

from attngraph.experiments.base.shipped import DEFAULT
from attngraph.experiments.commands.options import TableOptions
from attngraph.experiments.tables.grid import load_table
from attngraph.experiments.tables.make import folder_of, make


def run(options: TableOptions) -> int:
    """Execute the missing runs, then print and save the table."""
    grid = load_table(options.name, options.size, options.changes).with_settings(options.settings)
    name, size, out = Path(options.name).stem, Path(options.size).stem, folder_of(options.out, options.size)
    title = f"{grid.title}, size {size}, {Path(options.model or DEFAULT).name}"
    make(options, options.seeds, grid, title, out, out / name, name)
    return 0
