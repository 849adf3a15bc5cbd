"""Choose the learning rate of each row of a table on validation data, with one seed.

:mod:`experiments.tables.tune` says which rates are tried.
"""

from __future__ import annotations

from experiments.base.files import check_out
from experiments.commands.options import SweepOptions
from experiments.methods import method_named
from experiments.runs.execution import execution_of, in_folder
from experiments.tables.grid import load_table
from experiments.tables.make import check_named, folder_of, rows_in, wanted_of
from experiments.tables.plan import plan_table
from experiments.tables.tune import Tuner, check_tuned, sweep

STEM = "sweep"


def run(options: SweepOptions) -> int:
    """Try the rates and write the best; a second call continues."""
    out = folder_of(options.out, options.size)
    grid = load_table(options.name, options.size, options.changes)
    trained = [name for name in grid.counts if method_named(name).trains]
    rows = rows_in(options.rows, trained) or trained
    wanted = wanted_of(options, rows, range(1))
    tuner = Tuner(grid, wanted, plan_table(grid, wanted, out / "data"), execution_of(options, out))
    rates = {method: grid.rates_of(method_named(method)) for method, _ in tuner.cells}
    if not options.dry_run:
        check_named(options, grid)
    check_out(out)
    check_tuned(out, STEM, tuner.cells)
    if options.dry_run:
        for (method, task), cell in tuner.cells.items():
            tried = ", ".join(f"{rate:g}" for rate in rates[method])
            print(f"{method_named(method).title:<28} {task:<12} {cell.recipe.steps} steps at {tried}")
        return 0

    def work() -> int:
        sweep(tuner, options.download)
        tuner.save(STEM)
        return 0

    return in_folder(tuner.execution, work)
