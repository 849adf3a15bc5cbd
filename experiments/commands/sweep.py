"""Choose the learning rate of each row of a table on validation data, with one seed.

:mod:`experiments.tables.sweep` says which rates are tried.
"""

from __future__ import annotations

from experiments.base.outputs import check_folder
from experiments.commands.options import SweepOptions
from experiments.methods import method_named
from experiments.runs.cells import has_diverged, has_scores
from experiments.runs.device import processes
from experiments.runs.execution import execution_of, in_folder
from experiments.runs.prepare import prepare
from experiments.runs.runner import run_cells
from experiments.tables.grid import load_table
from experiments.tables.make import OWNER, check_named, folder_of, rows_in, wanted_of
from experiments.tables.plan import plan_table
from experiments.tables.sweep import at_rate, check_kept, check_own, chosen_rates, save, sweep


def run(options: SweepOptions) -> int:
    """Try the rates and write the best; a second call continues."""
    out = folder_of(options.out, options.size)
    grid = load_table(options.name, options.size, options.changes)
    trained = [name for name in grid.counts if method_named(name).trains]
    rows = rows_in(options.rows, trained) or trained
    plan, execution = (
        plan_table(grid, wanted_of(options, rows, range(1)), out / "data"),
        execution_of(options, out),
    )
    cells = [cell for cell in plan.cells if cell.recipe is not None]
    rates = {cell.method: grid.rates_of(method_named(cell.method)) for cell in cells}
    if not options.dry_run:
        check_named(options, grid)
    check_folder(out, OWNER)
    check_own(out)
    if options.dry_run:
        for cell in cells:
            tried = ", ".join(f"{rate:g}" for rate in rates[cell.method])
            print(
                f"{method_named(cell.method).title:<28} {cell.task:<12} {cell.recipe.steps} steps at {tried}"
            )
        return 0
    check_kept(out, [(cell.method, cell.task) for cell in cells])

    def work() -> int:
        first = [at_rate(cell, rates[cell.method][0]) for cell in cells]
        if not all(has_scores(cell, out) or has_diverged(cell, out) for cell in first):
            prepare(first, execution, plan.scenes, options.download)
        tried = sweep(cells, rates, lambda due: run_cells(due, execution, may_diverge=True))
        if processes(options.device).is_main_process:
            save(out, chosen_rates(cells, tried, grid.chosen.reduction), tried)
        return 0

    return in_folder(execution, work)
