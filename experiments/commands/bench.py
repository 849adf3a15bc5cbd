"""Measure speed and memory against attention itself and against peers.

    attngraph bench                 # everything; writes runs/bench/{results.json,bench.md,bench.png}
    attngraph bench --only step     # one benchmark
    attngraph bench --quick         # tiny sizes: whether it runs, not how fast

Ratios are taken within one run, between neighbours in time; close other programs nevertheless.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch

from attngraph.errors import UserError
from experiments.bench.measure import ENOUGH, LEAST
from experiments.bench.report import draw, markdown, text
from experiments.bench.suite import BENCHMARKS, run_benchmark
from experiments.files import check_out, whole, write_json, write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph bench``."""
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(BENCHMARKS),
        metavar="NAME",
        help=f"some of: {', '.join(BENCHMARKS)}",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=15,
        help="repetitions of which medians are taken (default: %(default)s; "
        f"{LEAST} or more where they would take over {ENOUGH:g} s)",
    )
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: whether everything runs, not how fast"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench"), help="folder for the results (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print each table as it comes, and save all of them."""
    for name in ("repeats", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, got {value}")
    if args.threads:
        torch.set_num_threads(args.threads)
    check_out(args.out)
    results = {
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads, PyTorch "
        f"{torch.__version__}",
        "repeats": args.repeats,
        "quick": args.quick,
        "seed": args.seed,
        "benchmarks": {},
    }
    for name in args.only or BENCHMARKS:
        result = run_benchmark(BENCHMARKS[name], args.repeats, args.quick, args.seed)
        results["benchmarks"][name] = result
        print(text(result), flush=True)
        write_json(args.out / "results.json", results)
    write_text(args.out / "bench.md", markdown(results))
    with whole(args.out / "bench.png") as part:
        draw(results, part)
    print(f"written: {args.out}/results.json, bench.md, bench.png")
    return 0
