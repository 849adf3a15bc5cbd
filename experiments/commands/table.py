"""The tables of the paper.

attngraph table main                     # on drawn scenes with the mini-BLIP
attngraph table main --model mini-mplug --out runs/tables-mplug
attngraph table gnn --dry-run
attngraph table main --size paper --data data/official --model MODEL --device cuda

All tables of a size share a folder, in which each has a folder of its own, so that runs that stand in several
tables are run once.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from attngraph.errors import UserError
from experiments.runs.cells import IMAGE_STATES
from experiments.runs.execution import add_run_arguments
from experiments.runs.given_data import add_data_arguments, check_data_arguments
from experiments.tables.grid import listed, load_table
from experiments.tables.make import (
    Work,
    check_named,
    check_ranking,
    folder_of,
    make,
    model_of,
    rows_in,
    wanted_of,
)
from experiments.tables.plan import plan_table

SHARED = ("cells", "data", IMAGE_STATES)  # folders of --out in which runs keep something


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph table``."""
    parser.add_argument(
        "name", metavar="TABLE", help=f"Make this table: a YAML file, or one of these: {listed('table')}."
    )
    add = parser.add_argument
    add(
        "--size",
        default="scenes",
        metavar="NAME",
        help=f"Run this much of it: a YAML file, or one of these: {listed('size')}.",
    )
    add(
        "--rows", metavar="NAMES", help="Run only these rows, separated by commas. Default: all of the table."
    )
    add(
        "--tasks",
        metavar="NAMES",
        help="Run only these tasks, separated by commas. Default: all of the table.",
    )
    add("--seed", type=int, default=0, metavar="N", help="Begin the trained rows with this seed.")
    add(
        "--seeds",
        type=int,
        metavar="N",
        help="Run every row with this many seeds. Default: as the table says.",
    )
    add(
        "--settings",
        type=Path,
        metavar="FILE",
        help="Take learning rates, joins and schemes' arguments from this file, as `attngraph search` writes "
        "it, where it has some.",
    )
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="Write the runs into this folder, and the table into a folder of its name there. Default: "
        "runs/tables-SIZE.",
    )
    add_data_arguments(parser)
    add_run_arguments(parser)
    add(
        "--dry-run",
        action="store_true",
        help="List the runs, which of them have scores already, and what the others cost; run nothing.",
    )


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then print and save the table."""
    check_data_arguments(args)
    grid = load_table(args.name, args.size).with_settings(args.settings)
    name, of_size = Path(args.name).stem, Path(args.size).stem
    out = folder_of(args.out, args.size)
    if name in SHARED:
        raise UserError(
            f"{args.name}: the table would be written into {out / name}, where its runs keep something else: "
            "give the file another name"
        )
    wanted = wanted_of(args, rows_in(args.rows, list(grid.counts)))
    plan = plan_table(grid, replace(wanted, first_seed=args.seed, seeds=args.seeds), out / "data")
    check_ranking(args.answering, plan)
    if not args.dry_run:
        check_named(args, grid)
    title = f"{grid.title}, size {of_size}, {model_of(args)}"
    return make(args, Work(title, plan, out, out / name, grid, name), args.dry_run)
