"""Choose learning rates, joins and the schemes' arguments on validation data, with the same budget for each
GNN.

    attngraph search                # hours on 2 cores; resumable; writes runs/search/settings.yaml

:mod:`experiments.tables.tune` says what is tried.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.base.outputs import check_folder
from experiments.runs.execution import add_run_arguments, execution_of, in_folder
from experiments.runs.given_data import add_data_arguments, check_data_arguments
from experiments.tables.grid import load_preset
from experiments.tables.make import wanted_of
from experiments.tables.plan import plan_table
from experiments.tables.tune import Tuner, check_tuned, search

STEM = "search"
VALIDATION_EXAMPLES = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph search``."""
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        default=Path("runs/search"),
        metavar="FOLDER",
        help="Write the runs, what was tried and what was chosen into this folder; finished runs are not run "
        "again.",
    )
    add(
        "--preset",
        default="full",
        metavar="NAME",
        help="Take the budgets, data and checkpoints of this preset: a name or a YAML file.",
    )
    add(
        "--tasks",
        metavar="NAMES",
        help="Take only these tasks, separated by commas. Default: all of the preset.",
    )
    add_data_arguments(parser)
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the races; a second call continues."""
    check_data_arguments(args)
    grid = load_preset(args.preset)
    wanted = wanted_of(args, None, range(1))
    plan = plan_table(grid, wanted, args.out / "data")
    tuner = Tuner(grid, wanted, plan, execution_of(args, args.out), VALIDATION_EXAMPLES)
    check_folder(args.out, STEM)
    check_tuned(args.out, STEM, tuner.cells)

    def work() -> int:
        search(tuner, args.download)
        tuner.save(STEM)
        return 0

    return in_folder(tuner.execution, work)
