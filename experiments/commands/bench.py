"""Measure speed and memory against attention itself and against peers.

    attngraph bench                 # everything; writes runs/bench/{results.json,bench.md,bench.png}
    attngraph bench --only step     # one benchmark again; the folder's others stay
    attngraph bench --quick --out runs/bench-quick    # tiny sizes: whether it runs, not how fast

Ratios are taken within one run, between neighbours in time; close other programs nevertheless.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch

from attngraph.errors import UserError
from experiments.arguments import EachOnce, seed
from experiments.bench.measure import ENOUGH, LEAST
from experiments.bench.report import draw, markdown, text
from experiments.bench.suite import BENCHMARKS, run_benchmark
from experiments.files import whole, write_json, write_text
from experiments.outputs import Outputs
from experiments.training.device import check_threads, cpu_threads

RESULTS, TABLES, FIGURE = "results.json", "bench.md", "bench.png"
NAMES = (RESULTS, TABLES, FIGURE)


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
        type=int,
        default=15,
        metavar="N",
        help="Take medians of this many repetitions; of fewer, but at least "
        f"{LEAST}, where they would take over {ENOUGH:g} s.",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="Use this many CPU threads. Default: PyTorch's choice."
    )
    parser.add_argument(
        "--quick", action="store_true", help="Run tiny sizes, to see whether everything runs, not how fast."
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="Set the seed of the random inputs."
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
    if args.repeats < 1:
        raise UserError(f"--repeats must be at least 1, got {args.repeats}")
    if args.threads is not None:
        check_threads(args.threads)
    with cpu_threads(args.threads or torch.get_num_threads()):
        return _measure(args)


def _measure(args: argparse.Namespace) -> int:
    settings = {
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads, PyTorch "
        f"{torch.__version__}",
        "repeats": args.repeats,
        "quick": args.quick,
        "seed": args.seed,
    }
    outputs = Outputs(args.out, "bench", settings, NAMES)
    with outputs.alone():
        outputs.claim()
        return _into(args, settings)


def _into(args: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Measure into a folder that is checked."""
    measured = _earlier(args.out / RESULTS)
    for name in args.only or BENCHMARKS:
        result = run_benchmark(BENCHMARKS[name], args.repeats, args.quick, args.seed)
        print(text(result), flush=True)
        measured[name] = result
        in_order = {name: measured[name] for name in BENCHMARKS if name in measured}
        results = {**settings, "benchmarks": in_order}
        write_json(args.out / RESULTS, results)
    write_text(args.out / TABLES, markdown(results))
    with whole(args.out / FIGURE) as part:
        draw(results, part)
    written = [name for name in NAMES if (args.out / name).exists()]
    print(f"written: {args.out}/{', '.join(written)}")
    return 0


def _earlier(file: Path) -> dict[str, dict]:
    """The results of earlier runs with the same settings, ``{benchmark: result}``."""
    if not file.exists():
        return {}
    try:
        held = json.loads(file.read_text(encoding="utf-8"))["benchmarks"]
        for result in held.values():
            text(result)  # fails where numbers are missing
        return held
    except (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read ({type(error).__name__}): move it away, or give another --out"
        ) from None
