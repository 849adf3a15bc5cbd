"""The GNN ablation table.

attngraph ablation                       # preset quick: one seed, under 8 minutes on 2 cores
attngraph ablation --preset full         # 21 seeds for the GNNs; hours, resumable
attngraph ablation --gnn pgnn,gcn --tasks vqa --seeds 3 --out runs/pgnn-gcn
attngraph ablation --data data/benchmarks --tasks vqa2,coco --out runs/benchmarks
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.runs.execution import add_run_arguments
from experiments.runs.given_data import add_data_arguments, check_data_arguments
from experiments.tables.grid import listed, load_preset
from experiments.tables.make import Work, check_named, check_ranking, make, names_in
from experiments.tables.plan import Wanted, plan_table
from experiments.tasks import TASKS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph ablation``."""
    add = parser.add_argument
    add(
        "--preset",
        default="quick",
        metavar="NAME",
        help=f"Run this preset: a YAML file, or one of these: {listed('preset')}.",
    )
    add(
        "--gnn",
        metavar="NAMES",
        help="Run only these adapters, separated by commas. Default: as the preset says.",
    )
    add(
        "--tasks",
        metavar="NAMES",
        help=f"Run only these tasks, separated by commas: {','.join(TASKS)}. Default: those whose data are "
        "in --data, or without it those whose data are drawn or come with a package.",
    )
    add("--seed", type=int, default=0, metavar="N", help="Begin the trained rows with this seed.")
    add(
        "--seeds",
        type=int,
        metavar="N",
        help="Run every row with this many seeds. Default: as the preset says.",
    )
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="Write the runs and tables into this folder. Default: runs/ablation-PRESET.",
    )
    add_data_arguments(parser)
    add_run_arguments(parser)
    add(
        "--dry-run",
        action="store_true",
        help="List the runs, which of them have scores already, and how much the others train; run nothing.",
    )


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then print and save the table."""
    check_data_arguments(args)
    preset = load_preset(args.preset)
    out = args.out or Path("runs") / f"ablation-{Path(args.preset).stem}"
    wanted = Wanted(
        rows=names_in(args.gnn),
        tasks=names_in(args.tasks),
        first_seed=args.seed,
        seeds=args.seeds,
        model=args.model,
        data=args.data,
        answering=args.answering,
    )
    plan = plan_table(preset, wanted, out / "data")
    check_ranking(args.answering, plan)
    if not args.dry_run:
        check_named(args, preset)
    title = f"GNN ablation, preset {Path(args.preset).stem}"
    return make(args, Work(title, plan, out, out, preset), args.dry_run)
