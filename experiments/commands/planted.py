"""Train every scheme on planted graphs, where theory says who wins::

    attngraph planted                          # 63 conditions, 9 rows, 10 seeds, 3 rates
    attngraph planted --join blend --out runs/planted-blend
    attngraph planted --quick --out runs/planted-quick    # whether it runs, in a minute

Writes ``planted.csv`` (all runs), ``conditions.csv``, ``planted.txt`` and ``planted.png`` to
``runs/planted``. ``docs/planted.md`` says what is planted and what theory predicts.
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from experiments.base.arguments import Between
from experiments.base.files import write_text
from experiments.base.outputs import Outputs
from experiments.base.progress import Progress
from experiments.studies.planted import QUICK, ROWS, Study
from experiments.studies.planted import run as train_all
from experiments.studies.planted_report import conditions, draw, text

RUNS, CONDITIONS, TEXT, FIGURE = NAMES = ("planted.csv", "conditions.csv", "planted.txt", "planted.png")
SEEDS = {False: 10, True: 3}  # of a whole run and of a quick one
MOST = 100  # seeds, whose graphs are in memory together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph planted``."""
    parser.add_argument(
        "--seeds",
        type=Between(2, MOST),
        metavar="N",
        help=f"Train with this many seeds, from 0 on. Default: {SEEDS[False]}, with --quick {SEEDS[True]}.",
    )
    parser.add_argument(
        "--join",
        choices=["replace", "blend"],
        metavar="NAME",
        default="replace",
        help="Join the schemes' output to the attention output in this way.",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="Run three conditions at one rate with short training, to see whether everything runs.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/planted"),
        metavar="FOLDER",
        help="Write the results into this folder.",
    )


def run(args: argparse.Namespace) -> int:
    """``attngraph planted``."""
    count = args.seeds or SEEDS[args.quick]
    study = replace(QUICK if args.quick else Study(), join=args.join)
    settings = {"seeds": count, "join": args.join, "quick": args.quick, "torch": torch.__version__}
    outputs = Outputs(args.out, "planted", settings, NAMES)
    with outputs.alone():
        total = len(study.parts) * len(ROWS) * len(study.rates)
        runs = pd.concat(Progress(train_all(study, range(count)), "rows × rates", total), ignore_index=True)
        with outputs.writing() as folder:
            runs.to_csv(folder / RUNS, index=False, float_format="%.6g")
            runs = pd.read_csv(folder / RUNS)  # as rounded, so that the report follows from the file
            table = conditions(runs)
            table.to_csv(folder / CONDITIONS, index=False, float_format="%.5g")
            machine = f"{platform.system()} {platform.machine()}, cpu, PyTorch {torch.__version__}"
            report = text(runs, table, f"seeds 0-{count - 1}, join {args.join}, {machine}")
            write_text(folder / TEXT, report)
            draw(table, folder / FIGURE)
    print(report)
    print(f"written: {args.out}/{', '.join(NAMES)}")
    return 0
