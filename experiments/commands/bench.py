"""Measure speed and memory against plain attention and other implementations.

Ratios are between consecutive measurements of the same run, once with one thread (processor time) and once
with all threads of ``OMP_NUM_THREADS`` (wall-clock time, for which other programs should be closed).
"""

from __future__ import annotations

import platform

import torch

from attngraph.analysis.plots.style import files
from attngraph.experiments.base.files import write_json, write_text
from attngraph.experiments.base.messages import check_known
from attngraph.experiments.base.outputs import Outputs
from attngraph.experiments.commands.options import BenchOptions
from attngraph.experiments.studies.bench import BENCHMARKS, FIGURE, draw, markdown, run_benchmark

RESULTS, TABLES, PLOT = "results.json", "bench.md", "bench"
REPEATS = {False: 15, True: 3}  # of a whole run and of a quick one
ABOUT = (
    "Medians of {repeats} interleaved repetitions (fewer, but at least 7, if they took over half a minute) "
    "on {machine}. Ratios are medians of the ratios to the first line within the same repetition: of "
    "processor time with one thread (as are ms and targets), and of wall-clock time with all threads. "
    "Forward and backward passes unless stated otherwise. Extra MB: growth of peak resident memory during "
    "one run in a separate process.\n"
)


def run(options: BenchOptions) -> int:
    """Measure, print each table when it is complete, and save all of them."""
    names = options.only or tuple(BENCHMARKS)
    check_known(names, list(BENCHMARKS), "benchmark")
    settings = {
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads, PyTorch "
        f"{torch.__version__}",
        "repeats": REPEATS[options.quick],
        "quick": options.quick,
        "only": sorted(names),
    }
    written = [RESULTS, TABLES, *(files(PLOT) if FIGURE in names else [])]
    outputs = Outputs(options.out, "bench", settings, written)
    with outputs.alone():
        measured, tables = {}, [ABOUT.format(**settings)]
        for name in names:
            measured[name] = run_benchmark(BENCHMARKS[name], REPEATS[options.quick], options.quick)
            tables.append(markdown(measured[name]))
            print(tables[-1], flush=True)
        with outputs.writing() as out:
            write_json(out / RESULTS, {**settings, "benchmarks": measured})
            write_text(out / TABLES, "\n".join(tables))
            if FIGURE in measured:
                draw(measured[FIGURE], out / PLOT)
    print(f"written: {options.out}/{', '.join(written)}")
    return 0
