"""Benchmarks: the time and memory of attention, message passing and training steps, as ratios within one run.

:mod:`~experiments.studies.bench_runs` has what is run. Everything runs in turn, so that ratios are taken
between neighbours in time, and memory is measured in a process of its own.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

import torch

from experiments.runs.device import PeakMemory
from experiments.studies import bench_runs
from experiments.studies.bench_runs import Run

LEAST, ENOUGH = 3, 60.0  # a benchmark that takes more than so many seconds ends after so many repetitions
HEAD = ("", "ms", "ratio", "target", "extra MB")


@dataclass(frozen=True)
class Benchmark:
    """Runs that are compared with each other.

    Args:
        title: for the table.
        runs: makes the runs, by name, from sizes.
        sizes: its keyword arguments.
        quick: others for a quick look, and to load what is loaded at first use.
        baseline: what the others are measured by.
        targets: ratios that runs should not exceed.
        memory: the runs whose memory is measured.
        memory_target: extra memory should not exceed this times the baseline's.
    """

    title: str
    runs: Callable[..., dict[str, Run]]
    sizes: dict
    quick: dict
    baseline: str
    targets: Mapping[str, float] = field(default_factory=dict)
    memory: tuple[str, ...] = ()
    memory_target: float | None = None


BASE = dict(h=12, n=40, m=577, d=64)
SMALL = dict(h=2, n=8, m=60, d=16)
STEP_MEMORY = (bench_runs.ATTENTION, bench_runs.OURS, bench_runs.OURS_CAUSAL, bench_runs.DENSE)


def _long(n: int, causal: bool) -> Benchmark:
    return Benchmark(
        f"self-attention, N {n:,}{', causal' * causal}, H 2, d 64",
        bench_runs.long,
        dict(h=2, d=64, n=n, causal=causal),
        dict(h=2, d=64, n=300, causal=causal),
        bench_runs.FUSED,
        {bench_runs.TILED: 5.0},
        (bench_runs.FUSED, bench_runs.TILED),
        memory_target=2.0,
    )


BENCHMARKS = {
    "step": Benchmark(
        "attention and one p-Laplacian step, B 8, H 12, N1 40, N2 577, d 64",
        bench_runs.step,
        BASE | dict(b=8),
        SMALL | dict(b=2),
        bench_runs.ATTENTION,
        {bench_runs.OURS: 2.2, bench_runs.OURS_CAUSAL: 2.5},
        STEP_MEMORY,
    ),
    "step-b2": Benchmark(
        "the same with B 2",
        bench_runs.step,
        BASE | dict(b=2),
        SMALL | dict(b=1),
        bench_runs.ATTENTION,
        memory=STEP_MEMORY,
    ),
    "peers": Benchmark(
        "the same with B 1 and H 2, and the peers that need gigabytes",
        bench_runs.step,
        BASE | dict(b=1, h=2, peers=True),
        SMALL | dict(b=1, peers=True),
        bench_runs.ATTENTION,
        memory=(bench_runs.ATTENTION, bench_runs.OURS, bench_runs.PER_EDGE, bench_runs.SQUARE),
    ),
    "training": Benchmark(
        "training step of a BLIP-base decoder, B 8, 40 words, 577 image tokens",
        bench_runs.training,
        dict(b=8, n=40, m=577, layers=12, width=768, heads=12, words=30524),
        dict(b=1, n=6, m=20, layers=1, width=16, heads=2, words=50),
        bench_runs.VANILLA,
        {bench_runs.P_ADAPTERS: 1.2},
        tuple(bench_runs.SCHEMES),
    ),
    "long-4k": _long(4096, False),
    "long-4k-causal": _long(4096, True),
    "long-16k": _long(16384, False),
    "long-16k-causal": _long(16384, True),
    "sparse": Benchmark(
        "sparse top-k against the exact step (forward), B 2, H 12, N1 40, N2 577, d 64",
        bench_runs.sparse,
        BASE | dict(b=2),
        SMALL | dict(b=1),
        bench_runs.EXACT,
    ),
    "stream": Benchmark(
        "a text model of 2 layers, 16,384 words, H 2, d 64, and its graphs",
        bench_runs.stream,
        dict(n=16384, layers=2, heads=2, width=128),
        dict(n=200, layers=1, heads=2, width=16),
        bench_runs.MODEL,
        {bench_runs.STREAM: 2.2},
        (bench_runs.MODEL, bench_runs.STREAM),
    ),
    "statistics": Benchmark(
        "heterophily statistics of a layer of BLIP-base's sizes, B 8, H 12, 30 words, 577 image nodes, d 64",
        bench_runs.statistics,
        dict(b=8, h=12, n=30, m=577, d=64),
        dict(b=1, h=2, n=6, m=20, d=8),
        bench_runs.IMAGE_ATTENTION,
    ),
}


# ---- measuring ---------------------------------------------------------------------------------------------


def run_benchmark(benchmark: Benchmark, repeats: int, quick: bool) -> dict:
    """One benchmark's numbers, as JSON."""
    sizes = benchmark.quick if quick else benchmark.sizes
    runs = benchmark.runs(**sizes)
    measured = compare(runs, benchmark.baseline, repeats)
    for name, run in measured.items():
        if name in benchmark.targets:
            run["target"] = benchmark.targets[name]
        if name in benchmark.memory:
            run["extra_mb"] = extra_memory(benchmark.runs, name, sizes, benchmark.quick)
    return {
        "title": benchmark.title + (" (quick: other, tiny sizes)" if quick else ""),
        "baseline": benchmark.baseline,
        "options": sizes,
        "memory_target": benchmark.memory_target,
        "runs": measured,
    }


def compare(runs: Mapping[str, Run], baseline: str, repeats: int) -> dict[str, dict[str, float]]:
    """Run everything once to warm up, then in turn, ``repeats`` times, or less often if that takes too long.

    The machine may be slower at one time than at another; so ratios are taken between neighbours, and the
    order changes from one repetition to the next.

    Returns:
        For each run: median ``seconds``; ``ratio``, the median of the ratios to the baseline within the same
        repetition; and ``repeats``.
    """
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    for repeat in range(repeats):
        if repeat >= LEAST and time.perf_counter() - began > ENOUGH:
            break
        for name in runs if repeat % 2 == 0 else reversed(runs):
            gc.collect()
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    return {
        name: {
            "seconds": statistics.median(taken),
            "ratio": statistics.median(a / b for a, b in zip(taken, seconds[baseline])),
            "repeats": len(taken),
        }
        for name, taken in seconds.items()
    }


def extra_memory(runs: Callable[..., dict[str, Run]], name: str, sizes: dict, small: dict) -> float:
    """Megabytes that a run needs at most beyond its inputs, measured in a process of its own.

    There the runs' inputs are made, a small run loads what is loaded at first use, and then the growth of the
    peak of resident memory over one run counts (``VmHWM``, which Linux can reset; elsewhere the growth of
    ``ru_maxrss``).

    Args:
        runs: a function of a module, which makes runs of sizes.
        name: which of them.
        sizes: of the run.
        small: of the small run.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
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
    """A benchmark's lines, as :data:`HEAD` names them."""
    lines = []
    base = result["runs"][result["baseline"]]
    for name, run in result["runs"].items():
        met = memory = ""
        if "target" in run:
            over = run["ratio"] - run["target"]
            met = f"≤ {run['target']:g} " + ("met" if over <= 0 else f"missed by {over:.2f}")
        if "extra_mb" in run:
            memory = f"{run['extra_mb']:.0f}"
            limit = result["memory_target"]
            if limit and run is not base:
                share = run["extra_mb"] / max(1e-9, base["extra_mb"])
                memory += f" ({share:.2f} ×, ≤ {limit:g} {'met' if share <= limit else 'missed'})"
        lines.append((name, f"{1000 * run['seconds']:.1f}", f"{run['ratio']:.2f}", met, memory))
    return lines


def markdown(result: dict) -> str:
    """A benchmark's table."""
    lines = [HEAD, ["---"] + ["---:"] * (len(HEAD) - 1), *rows(result)]
    table = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([f"### {result['title'][0].upper()}{result['title'][1:]}", "", *table, ""])
