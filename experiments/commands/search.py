"""Choose learning rates, joins and scheme arguments on validation data, with the same budget for each GNN;
see :mod:`attngraph.experiments.tables.tune`.
"""

from __future__ import annotations

from attngraph.experiments.base.files import check_out
from attngraph.experiments.commands.options import SearchOptions
from attngraph.experiments.runs.execution import execution_of
from attngraph.experiments.tables.grid import load_preset
from attngraph.experiments.tables.plan import plan_table
from attngraph.experiments.tables.tune import Tuner, check_tuned, search, search_grid

STEM = "search"
VALIDATION_EXAMPLES = 1000


def run(options: SearchOptions) -> int:
    """Run the races, or the learning rates of the preset; a second call continues."""
    grid = load_preset(options.preset, options.changes)
    plan = plan_table(
        grid,
        options.out / "data",
        tasks=options.tasks,
        seeds=range(1),
        model=options.model,
        data=options.data,
    )
    execution = execution_of(options, options.out)
    tuner = Tuner(grid, plan, execution, VALIDATION_EXAMPLES)
    check_out(options.out)
    check_tuned(options.out, STEM, tuner.cells)
    with execution.alone():
        (search_grid if grid.rates else search)(tuner)
        tuner.save(STEM)
    return 0
