"""Measure speed and memory against attention itself and against peers.

    attngraph bench                 # everything; writes runs/bench/{results.json,bench.md,bench.png}
    attngraph bench --only step     # one benchmark
    attngraph bench --quick         # tiny sizes: whether it runs, not how fast

Ratios are taken within one run, between neighbours in time; close other programs nevertheless.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import torch

from attngraph.errors import UserError
from experiments.bench.measure import ENOUGH, LEAST, compare, extra_memory
from experiments.bench.report import draw, markdown, text
from experiments.bench.suite import BENCHMARKS, Benchmark


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
        help=f"repetitions of which medians are taken (default: %(default)s; {LEAST} or more where they would "
        f"take over {ENOUGH:g} s)",
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
    for name in ("repeats", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, got {value}")
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    results = {
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads, PyTorch "
        f"{torch.__version__}",
        "repeats": args.repeats,
        "quick": args.quick,
        "seed": args.seed,
        "benchmarks": {},
    }
    for name in args.only or BENCHMARKS:
        result = measure(BENCHMARKS[name], args.repeats, args.quick, args.seed)
        results["benchmarks"][name] = result
        print(text(result), flush=True)
        (args.out / "results.json").write_text(json.dumps(results, indent=1))
    (args.out / "bench.md").write_text(markdown(results), encoding="utf-8")
    draw(results, args.out / "bench.png")
    print(f"written: {args.out}/results.json, bench.md, bench.png")
    return 0


def measure(benchmark: Benchmark, repeats: int, quick: bool, seed: int) -> dict:
    """One benchmark's numbers, as JSON."""
    options = (benchmark.quick if quick else benchmark.options) | {"seed": seed}
    runs = benchmark.module.runs(options)
    names = benchmark.only or tuple(runs)
    times, failed = compare({name: runs[name] for name in names}, benchmark.baseline, repeats)
    found = {name: {"failed": failed[name]} if name in failed else times[name]._asdict() for name in names}
    errors = benchmark.errors(options) if benchmark.errors else {}
    for name, run in found.items():
        if "failed" in run:
            continue
        if name in benchmark.targets:
            run["target"] = benchmark.targets[name]
        if name in benchmark.memory:
            run["extra_mb"] = extra_memory(benchmark.module.__name__, name, options)
        if name in errors:
            run["error"] = errors[name]
    return {
        "title": benchmark.title + (" (quick: other, tiny sizes)" if quick else ""),
        "baseline": benchmark.baseline,
        "options": options,
        "memory_target": benchmark.memory_target,
        "runs": found,
    }
