"""Train every scheme on planted graphs, where theory says who wins::

    attngraph planted                          # 63 conditions, 9 rows, 10 seeds, 3 rates
    attngraph planted --join blend --out runs/planted-blend
    attngraph planted --quick --out runs/planted-quick    # whether it runs, in a minute

Writes ``planted.csv`` (all runs), ``conditions.csv``, ``planted.txt`` and ``planted.png`` to
``runs/planted``. A run that was stopped goes on where it was with the same command. ``docs/planted.md`` says
what is planted and what theory predicts.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import pandas as pd
import torch

from attngraph.errors import UserError
from experiments.arguments import Between, seed
from experiments.files import whole, write_text
from experiments.outputs import Outputs
from experiments.planted.figure import draw
from experiments.planted.rows import ROWS
from experiments.planted.study import COLUMNS, QUICK, Study, run_part
from experiments.planted.summary import conditions, text
from experiments.progress import Progress
from experiments.training.device import check_device, check_threads, cpu_threads

RUNS, CONDITIONS, TEXT, FIGURE = NAMES = ("planted.csv", "conditions.csv", "planted.txt", "planted.png")
SEEDS = {False: 10, True: 3}  # of a whole run and of a quick one
MOST = 100  # seeds, whose graphs are in memory together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph planted``."""
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="Set the first seed.")
    parser.add_argument(
        "--seeds",
        type=Between(2, MOST),
        metavar="N",
        help=f"Train with this many seeds. Default: {SEEDS[False]}, with --quick {SEEDS[True]}.",
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
    parser.add_argument("--device", default="cpu", metavar="NAME", help="Train on this device.")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="Use this many CPU threads. Default: PyTorch's choice."
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
    check_device(args.device)
    if args.threads is not None:
        check_threads(args.threads)
    count = args.seeds or SEEDS[args.quick]
    settings = {
        "seed": args.seed,
        "seeds": count,
        "join": args.join,
        "quick": args.quick,
        "device": args.device,
        "torch": torch.__version__,
    }
    outputs = Outputs(args.out, "planted", settings, NAMES)
    with cpu_threads(args.threads or torch.get_num_threads()), outputs.alone():
        outputs.claim()
        return _into(args, range(args.seed, args.seed + count))


def _into(args: argparse.Namespace, seeds: range) -> int:
    """Train into a folder that is checked."""
    study = QUICK if args.quick else Study()
    runs = _earlier(args.out / RUNS)
    held = set(zip(runs.ratio, runs.mass))
    with Progress(total=len(study.parts) * len(ROWS) * len(study.rates), desc="rows × rates") as bar:
        for ratio, mass in study.parts:
            if (float(ratio), mass) in held:
                bar.update(len(ROWS) * len(study.rates))
                continue
            part = []
            for table in run_part(study, ratio, mass, seeds, args.join, args.device):
                part.append(table)
                bar.update()
            runs = pd.concat([*([runs] if len(runs) else []), *part], ignore_index=True)
            with whole(args.out / RUNS) as file:
                runs.to_csv(file, index=False, float_format="%.6g")
    runs = _earlier(args.out / RUNS)  # as rounded, so that the report follows from the file
    table = conditions(runs)
    with whole(args.out / CONDITIONS) as file:
        table.to_csv(file, index=False, float_format="%.5g")
    machine = f"{platform.system()} {platform.machine()}, {args.device}, PyTorch {torch.__version__}"
    report = text(runs, table, f"seeds {seeds[0]}-{seeds[-1]}, join {args.join}, {machine}")
    write_text(args.out / TEXT, report)
    with whole(args.out / FIGURE) as file:
        draw(runs, table, file)
    print(report)
    print(f"written: {args.out}/{', '.join(NAMES)}")
    return 0


def _earlier(file: Path) -> pd.DataFrame:
    """The runs of parts that are done."""
    if not file.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    try:
        runs = pd.read_csv(file)
        if tuple(runs.columns) != COLUMNS or not set(runs.row) <= set(ROWS):
            raise ValueError
        runs[["ratio", "mass", "contrast", "rate", "measured", "validation", "test", "p"]].astype(float)
        return runs
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read as runs ({type(error).__name__}): move it away, or give another --out"
        ) from None
