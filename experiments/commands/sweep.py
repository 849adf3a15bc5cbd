"""Choose the learning rate of each row of a table on validation data, with one seed.

The rates are described in :mod:`attngraph.experiments.tables.tune`.
"""

from __future__ import annotations

from attngraph.experiments.base.files import check_out
from attngraph.experiments.base.messages import check_known
from attngraph.experiments.commands.options import SweepOptions
from attngraph.experiments.methods import method_named
from attngraph.experiments.methods.method import canonical
from attngraph.experiments.runs.execution import execution_of
from attngraph.experiments.tables.grid import load_table
from attngraph.experiments.tables.make import check_named, folder_of
from attngraph.experiments.tables.plan import plan_table
from attngraph.experiments.tables.tune import Tuner, check_tuned, sweep

STEM = "sweep"


def run(options: SweepOptions) -> int:
    """Train with each rate and write the best one; a second call continues."""
    out = folder_of(options.out, options.size)
    grid = load_table(options.name, options.size, options.changes)
    trained = [name for name in grid.counts if method_named(name).trains]
    rows = [canonical(name) for name in options.rows or trained]
    check_known(rows, trained, "row")
    plan = plan_table(
        grid,
        out / "data",
        rows=rows,
        tasks=options.tasks,
        seeds=range(1),
        model=options.model,
        data=options.data,
    )
    execution = execution_of(options, out)
    tuner = Tuner(grid, plan, execution)
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

    with execution.alone():
        sweep(tuner)
        tuner.save(STEM)
    return 0
