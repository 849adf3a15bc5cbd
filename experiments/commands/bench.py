"""Measure speed and memory against attention itself and against peers.

Ratios are taken within one run, between neighbours in time; close other programs nevertheless.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path

import torch

from attngraph.errors import UserError
from experiments.base.files import write_json, write_text
from experiments.base.messages import check_known
from experiments.base.outputs import Outputs
from experiments.commands.options import BenchOptions
from experiments.studies.bench import BENCHMARKS, markdown, run_benchmark, text

NAMES = RESULTS, TABLES = "results.json", "bench.md"
REPEATS = {False: 15, True: 3}  # of a whole run and of a quick one; fewer where they would take a minute


def run(options: BenchOptions) -> int:
    """Measure, print each table as it comes, and save all of them."""
    check_known(options.only or list(BENCHMARKS), list(BENCHMARKS), "benchmark")
    repeats = REPEATS[options.quick]
    settings = {
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads, PyTorch "
        f"{torch.__version__}",
        "repeats": repeats,
        "quick": options.quick,
    }
    outputs = Outputs(options.out, "bench", settings, NAMES)
    with outputs.alone():
        outputs.claim()
        measured = _earlier(options.out / RESULTS)
        for name in options.only or BENCHMARKS:
            measured[name] = run_benchmark(BENCHMARKS[name], repeats, options.quick)
            print(text(measured[name]), flush=True)
            in_order = {name: measured[name] for name in BENCHMARKS if name in measured}
            results = {**settings, "benchmarks": in_order}
            write_json(options.out / RESULTS, results)
        write_text(options.out / TABLES, markdown(results))
    print(f"written: {options.out}/{', '.join(NAMES)}")
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
