"""Choose the learning rate of each row of a table on validation data, with one seed.

    attngraph sweep main --out runs/tables-scenes
    attngraph table main --settings runs/tables-scenes/settings.yaml --out runs/tables-scenes

The rates with which rows begin stand in the size's file, the same for all adapters; while the best lies at an
edge, the next one beyond it is tried. Tasks that are left out take the rates of the task that they are like.
Runs go on where they stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.base.outputs import check_folder
from experiments.methods import method_named
from experiments.runs.execution import add_run_arguments, execution_of, in_folder
from experiments.runs.given_data import add_data_arguments, check_data_arguments
from experiments.tables.grid import load_table
from experiments.tables.make import OWNER, check_named, folder_of, rows_in, wanted_of
from experiments.tables.plan import plan_table
from experiments.tables.tune import SETTINGS, Tuner, check_tuned, sweep

STEM = "sweep"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph sweep``."""
    add = parser.add_argument
    add("name", metavar="TABLE", help="Take the rows and tasks of this table, as `attngraph table` does.")
    add(
        "--size",
        default="scenes",
        metavar="NAME",
        help="Take the budgets and rates of this size of it.",
    )
    add("--rows", metavar="NAMES", help="Take only these rows, separated by commas. Default: all that train.")
    add(
        "--tasks",
        metavar="NAMES",
        help="Take only these tasks, separated by commas. Default: all of the table.",
    )
    add("--seed", type=int, default=0, metavar="N", help="Train with this seed.")
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help=f"Write the runs, {SETTINGS}, {STEM}.csv and {STEM}.md into this folder, which may be that of "
        "the tables. Default: runs/tables-SIZE.",
    )
    add_data_arguments(parser)
    add_run_arguments(parser)
    add("--dry-run", action="store_true", help="List the runs with their first rates; run nothing.")


def run(args: argparse.Namespace) -> int:
    """Try the rates and write the best; a second call continues."""
    check_data_arguments(args)
    out, grid = folder_of(args.out, args.size), load_table(args.name, args.size)
    trained = [name for name in grid.counts if method_named(name).trains]
    rows = rows_in(args.rows, trained) or trained
    wanted = wanted_of(args, rows, range(args.seed, args.seed + 1))
    tuner = Tuner(grid, wanted, plan_table(grid, wanted, out / "data"), execution_of(args, out))
    rates = {method: grid.rates_of(method_named(method)) for method, _ in tuner.cells}
    if not args.dry_run:
        check_named(args, grid)
    check_folder(out, OWNER)
    check_tuned(out, STEM, tuner.cells)
    if args.dry_run:
        for (method, task), cell in tuner.cells.items():
            tried = ", ".join(f"{rate:g}" for rate in rates[method])
            print(f"{method_named(method).title:<28} {task:<12} {cell.recipe.steps} steps at {tried}")
        return 0

    def work() -> int:
        sweep(tuner, args.download)
        tuner.save(STEM)
        return 0

    return in_folder(tuner.execution, work)
