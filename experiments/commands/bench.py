"""Measure speed and memory against attention itself and against peers.

    attngraph bench                 # everything; writes runs/bench/{results.json,bench.md}
    attngraph bench --only step     # one benchmark again; the folder's others stay
    attngraph bench --quick --out runs/bench-quick    # tiny sizes: whether it runs, not how fast

Ratios are taken within one run, between neighbours in time; close other programs nevertheless.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import torch

from attngraph.errors import UserError
from experiments.base.arguments import Between, EachOnce
from experiments.base.files import write_json, write_text
from experiments.base.outputs import Outputs
from experiments.studies.bench import BENCHMARKS, ENOUGH, LEAST, markdown, run_benchmark, text

NAMES = RESULTS, TABLES = "results.json", "bench.md"
MOST = 10_000  # repetitions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph bench``."""
    parser.add_argument(
        "--only",
        nargs="+",
        action=EachOnce,
        choices=list(BENCHMARKS),
        metavar="NAME",
        help=f"Run only these benchmarks, and keep the results of the others: {', '.join(BENCHMARKS)}.",
    )
    parser.add_argument(
        "--repeats",
        type=Between(1, MOST),
        default=15,
        metavar="N",
        help="Take medians of this many repetitions; of fewer, but at least "
        f"{LEAST}, where they would take over {ENOUGH:g} s.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="Run tiny sizes, to see whether everything runs, not how fast."
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/bench"),
        metavar="FOLDER",
        help="Write the results into this folder.",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print each table as it comes, and save all of them."""
    settings = {
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads, PyTorch "
        f"{torch.__version__}",
        "repeats": args.repeats,
        "quick": args.quick,
    }
    outputs = Outputs(args.out, "bench", settings, NAMES)
    with outputs.alone():
        outputs.claim()
        measured = _earlier(args.out / RESULTS)
        for name in args.only or BENCHMARKS:
            measured[name] = run_benchmark(BENCHMARKS[name], args.repeats, args.quick)
            print(text(measured[name]), flush=True)
            in_order = {name: measured[name] for name in BENCHMARKS if name in measured}
            results = {**settings, "benchmarks": in_order}
            write_json(args.out / RESULTS, results)
        write_text(args.out / TABLES, markdown(results))
    print(f"written: {args.out}/{', '.join(NAMES)}")
    return 0


def _earlier(file: Path) -> dict[str, dict]:
    """The results of earlier runs with the same settings, ``{benchmark: result}``."""
    if not file.exists():
        return {}
    try:
        return {**json.loads(file.read_text(encoding="utf-8"))["benchmarks"]}
    except (LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read ({type(error).__name__}): move it away, or give another --out"
        ) from None
