"""Benchmarks: the time and memory of attention, message passing, training and generation, as ratios within
one run.

The benchmarked functions are in :mod:`~attngraph.experiments.studies.bench_runs`. They run in turn, so that
ratios are between consecutive measurements, with one thread and with all; memory is measured in a separate
process.
"""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import torch

from attngraph.analysis.plots.style import COLOURS, COLUMN, new_figure, save, styled
from attngraph.experiments.runs.device import PeakMemory, cpu_threads
from attngraph.experiments.studies import bench_runs
from attngraph.experiments.studies.bench_runs import Run

LEAST, ENOUGH = 7, 30.0  # after so many seconds, runs end that have been repeated so often


@dataclass(frozen=True)
class Benchmark:
    """Runs that are compared with each other.

    Args:
        title: title of the table.
        runs: function that makes the runs, by name, from sizes.
        sizes: its keyword arguments.
        quick: keyword arguments for a smoke test, and for warming up.
        baseline: name of the run to compare with.
        targets: ratios that runs should not exceed, with one thread.
        memory: the runs whose memory is measured.
        memory_sizes: keyword arguments for measuring memory.
        memory_target: extra memory should not exceed this times the baseline's.
    """

    title: str
    runs: Callable[..., dict[str, Run]]
    sizes: dict
    quick: dict
    baseline: str
    targets: Mapping[str, float] = field(default_factory=dict)
    memory: tuple[str, ...] = ()
    memory_sizes: Mapping[str, int] = field(default_factory=dict)
    memory_target: float | None = None


BASE = dict(b=8, h=12, n=40, m=577, d=64)
SMALL = dict(b=2, h=2, n=8, m=60, d=16)
OURS, CAUSAL, WITH_MV = bench_runs.OURS, bench_runs.OURS_CAUSAL, bench_runs.WITH_MV
DECODER = dict(n=40, m=577, layers=12, width=768, heads=12, words=30524)
SMALL_DECODER = dict(b=1, n=6, m=20, layers=1, width=16, heads=2, words=50)


def _long(causal: bool, target: float) -> Benchmark:
    return Benchmark(
        f"self-attention, N 4,096 (memory: 16,384){', causal' * causal}, H 2, d 64",
        bench_runs.long,
        dict(h=2, d=64, n=4096, causal=causal),
        dict(h=2, d=64, n=300, causal=causal),
        bench_runs.FUSED,
        {bench_runs.TILED: target},
        (bench_runs.FUSED, bench_runs.TILED),
        memory_sizes=dict(n=16384),
        memory_target=2.0,
    )


BENCHMARKS = {
    "step": Benchmark(
        "attention and one p-Laplacian step, frozen keys and values, B 8, H 12, N1 40, N2 577, d 64",
        bench_runs.step,
        BASE | dict(frozen=True),
        SMALL | dict(frozen=True),
        bench_runs.ATTENTION,
        {OURS: 1.1, CAUSAL: 1.2, CAUSAL + WITH_MV: 1.3},
        (bench_runs.ATTENTION, OURS, CAUSAL, bench_runs.DENSE),
    ),
    "step-all": Benchmark(
        "the same with gradients for keys and values",
        bench_runs.step,
        BASE,
        SMALL,
        bench_runs.ATTENTION,
        {OURS: 1.6, CAUSAL: 1.8},
        (bench_runs.ATTENTION, OURS, CAUSAL, bench_runs.DENSE),
    ),
    "self": Benchmark(
        "the same in a decoder's self-attention, N1 and N2 40",
        bench_runs.step,
        BASE | dict(m=40, triangular=True),
        SMALL | dict(m=8, triangular=True),
        bench_runs.ATTENTION,
        {CAUSAL: 2.0},
    ),
    "peers": Benchmark(
        "attention and one p-Laplacian step, B 1, H 2, and the peers that need gigabytes",
        bench_runs.step,
        BASE | dict(b=1, h=2, peers=True),
        SMALL | dict(b=1, peers=True),
        bench_runs.ATTENTION,
        memory=(bench_runs.ATTENTION, OURS, bench_runs.PER_EDGE, bench_runs.SQUARE),
    ),
    "training": Benchmark(
        "training step of a BLIP-base decoder, B 4 (memory: 8), 40 words, 577 image tokens",
        bench_runs.training,
        DECODER | dict(b=4),
        SMALL_DECODER,
        bench_runs.VANILLA,
        {bench_runs.P_ADAPTERS: 1.06},
        (bench_runs.NONE, *bench_runs.SCHEMES),
        memory_sizes=dict(b=8),
        memory_target=1.0,
    ),
    "grouped": Benchmark(
        "training step of a BLIP-base decoder of 3 layers, B 8, without and with 4 texts to a picture",
        bench_runs.training,
        DECODER | dict(b=8, layers=3, pictures=2),
        SMALL_DECODER | dict(b=2, pictures=1),
        bench_runs.VANILLA,
        {bench_runs.P_ADAPTERS + bench_runs.GROUPED: 0.85},
    ),
    "training-mini": Benchmark(
        "training step of a mini-BLIP's decoder, B 32, 16 words, 65 image tokens",
        bench_runs.training,
        dict(b=32, n=16, m=65, layers=4, width=128, heads=4, words=304),
        SMALL_DECODER,
        bench_runs.VANILLA,
        {bench_runs.P_ADAPTERS: 1.25},
    ),
    "generation": Benchmark(
        "a BLIP-base decoder writes 16 words on 577 image tokens, 3 beams, B 1",
        bench_runs.generation,
        DECODER | dict(b=1, n=16, beams=3),
        SMALL_DECODER | dict(beams=2),
        bench_runs.VANILLA,
        {bench_runs.P_ADAPTERS: 1.05},
    ),
    "long": _long(False, 2.4),
    "long-causal": _long(True, 2.1),
    "stream": Benchmark(
        "a text model of 2 layers, 16,384 words (memory: 1 layer, 32,768, H 1), H 2, d 64, and its graphs",
        bench_runs.stream,
        dict(n=16384, layers=2, heads=2, width=128),
        dict(n=200, layers=1, heads=2, width=16),
        bench_runs.MODEL,
        {bench_runs.STREAM: 2.2},
        (bench_runs.MODEL, bench_runs.STREAM),
        memory_sizes=dict(n=32768, layers=1, heads=1, width=64),
    ),
    "statistics": Benchmark(
        "heterophily statistics of a layer of BLIP-base's sizes, B 8, H 12, 30 words, 577 image nodes, d 64",
        bench_runs.statistics,
        dict(b=8, h=12, n=30, m=577, d=64),
        dict(b=1, h=2, n=6, m=20, d=8),
        bench_runs.IMAGE_ATTENTION,
        {"statistics of the image's self-attention": 3.0},
    ),
}


# ---- measuring ---------------------------------------------------------------------------------------------


def run_benchmark(benchmark: Benchmark, repeats: int, quick: bool) -> dict:
    """The numbers of a benchmark, as JSON: for each run those of :func:`compare`, with one thread and with
    all, by the number of threads.
    """
    sizes = benchmark.quick if quick else benchmark.sizes
    runs = benchmark.runs(**sizes)
    threads = {}
    for count in dict.fromkeys((1, torch.get_num_threads())):
        with cpu_threads(count):
            threads[str(count)] = compare(runs, benchmark.baseline, repeats)
    of_memory = sizes if quick else {**sizes, **benchmark.memory_sizes}
    return {
        "title": benchmark.title + (" (quick: other, tiny sizes)" if quick else ""),
        "baseline": benchmark.baseline,
        "options": sizes,
        "targets": dict(benchmark.targets),
        "memory_target": benchmark.memory_target,
        "threads": threads,
        "extra_mb": {
            name: extra_memory(benchmark.runs, name, of_memory, benchmark.quick) for name in benchmark.memory
        },
    }


def compare(runs: Mapping[str, Run], baseline: str, repeats: int) -> dict[str, dict[str, float]]:
    """Run everything once to warm up, then in turn, ``repeats`` times, or fewer if that takes too long.

    The machine's speed may vary over time, so ratios are between consecutive measurements, and the order
    changes from one repetition to the next. With one thread processor time is measured, which other programs
    hardly affect; with several threads wall-clock time, since threads that wait for others also use the
    processor.

    Returns:
        For each run: median ``seconds``; ``ratio``, the median of the ratios to the baseline within the same
        repetition; and ``repeats``.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    for repeat in range(repeats):
        if repeat >= LEAST and time.perf_counter() - began > ENOUGH:
            break
        for name in runs if repeat % 2 == 0 else reversed(runs):
            gc.collect()
            start = clock()
            runs[name]()
            seconds[name].append(clock() - start)
    return {
        name: {
            "seconds": statistics.median(taken),
            "ratio": statistics.median(a / b for a, b in zip(taken, seconds[baseline])),
            "repeats": len(taken),
        }
        for name, taken in seconds.items()
    }


def extra_memory(runs: Callable[..., dict[str, Run]], name: str, sizes: dict, small: dict) -> float:
    """Peak memory of a run in megabytes beyond its inputs, measured in a separate process.

    This process makes the inputs and executes a small run to warm up; the result is the growth of peak
    resident memory during one run (``VmHWM``, which Linux can reset; on other systems the growth of
    ``ru_maxrss``).

    Args:
        runs: a function of a module, which makes runs from sizes.
        name: name of the run.
        sizes: sizes of the run.
        small: sizes of the small run.
    """
    quiet = dict(initializer=warnings.simplefilter, initargs=("ignore",))  # as commands are
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), **quiet) as process:
        return process.submit(_growth, runs, name, sizes, small, torch.get_num_threads()).result()


def _growth(runs: Callable[..., dict[str, Run]], name: str, sizes: dict, small: dict, threads: int) -> float:
    torch.set_num_threads(threads)
    runs(**small)[name]()
    run = runs(**sizes)[name]
    gc.collect()
    peak = PeakMemory("cpu")
    before = peak.bytes()
    run()
    return (peak.bytes() - before) / 2**20


# ---- tables ------------------------------------------------------------------------------------------------


def rows(result: dict) -> list[tuple[str, ...]]:
    """The lines of a benchmark, beginning with the names of the columns."""
    one, *others = result["threads"].values()
    ratios = [f"ratio, {count} thread{'s' * (count != '1')}" for count in result["threads"]]
    lines: list[tuple[str, ...]] = [("", "ms", *ratios, "target", "extra MB")]
    for name, run in one.items():
        numbers = [f"{1000 * run['seconds']:.1f}", *(f"{x[name]['ratio']:.2f}" for x in (one, *others))]
        lines.append((name, *numbers, _met(result, name), _memory(result, name)))
    return lines


def _met(result: dict, name: str) -> str:
    """Whether a run meets its target, if it has one."""
    if name not in result["targets"]:
        return ""
    target = result["targets"][name]
    over = result["threads"]["1"][name]["ratio"] - target
    return f"≤ {target:g} " + ("met" if over <= 0 else f"missed by {over:.2f}")


def _memory(result: dict, name: str) -> str:
    """A run's extra memory, if it was measured."""
    extra, limit, baseline = result["extra_mb"], result["memory_target"], result["baseline"]
    if name not in extra:
        return ""
    if limit is None or name not in result["targets"]:
        return f"{extra[name]:.0f}"
    share = extra[name] / max(1e-9, extra[baseline])
    return f"{extra[name]:.0f} ({share:.2f} ×, ≤ {limit:g} {'met' if share <= limit else 'missed'})"


def markdown(result: dict) -> str:
    """A benchmark's table."""
    head, *lines = rows(result)
    table = [f"| {' | '.join(line)} |" for line in (head, ["---"] + ["---:"] * (len(head) - 1), *lines)]
    return "\n".join([f"### {result['title'][0].upper()}{result['title'][1:]}", "", *table, ""])


# ---- the figure --------------------------------------------------------------------------------------------

FIGURE = "training"  # the benchmark that is plotted


def draw(result: dict, stem: Path) -> None:
    """Plot time and memory of a training step without adapters, with vanilla adapters and with p-adapters."""
    names = (bench_runs.NONE, *bench_runs.SCHEMES)
    time_of, memory = result["threads"]["1"], result["extra_mb"]
    panels = {
        "time, vanilla = 1": ([time_of[name]["ratio"] for name in names], "{:.2f}"),
        "extra memory, MB": ([memory[name] for name in names], "{:.0f}"),
    }
    with styled():
        figure = new_figure(COLUMN, 1.7)
        for axes, (label, (numbers, form)) in zip(figure.subplots(1, 2), panels.items()):
            bars = axes.bar(("none", "vanilla", "p"), numbers, color=COLOURS[:3])
            axes.bar_label(bars, fmt=form)
            axes.set(xlabel="adapters", ylabel=label)
            axes.margins(y=0.15)
    caption = (
        f"{result['title'][0].upper()}{result['title'][1:]}: processor time with one thread, and growth of "
        "peak memory during the step. Without adapters only the position embeddings are trained."
    )
    save(figure, stem, caption)
