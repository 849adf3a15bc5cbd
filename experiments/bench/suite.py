"""All benchmarks: sizes, baselines, targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

from experiments.bench import (
    answers,
    features,
    layers,
    long,
    pictures,
    sparse,
    steps,
    tables,
    training,
)
from experiments.bench.measure import compare, extra_memory


@dataclass(frozen=True)
class Benchmark:
    """Runs that are compared with each other.

    Args:
        title: for the table.
        module: with ``runs(options)``.
        options: sizes.
        quick: other sizes for a quick look.
        baseline: what the others are measured by.
        targets: the ratio that a run should not exceed.
        memory: the runs whose memory is measured.
        memory_target: extra memory should not exceed this times the baseline's.
        only: leave the other runs out.
        errors: relative errors of the runs.
        seconds, megabytes: what a run should not exceed, time and extra memory.
    """

    title: str
    module: ModuleType
    options: dict
    quick: dict
    baseline: str
    targets: dict[str, float] = field(default_factory=dict)
    memory: tuple[str, ...] = ()
    memory_target: float | None = None
    only: tuple[str, ...] = ()
    errors: Callable[[dict], dict[str, float]] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    megabytes: dict[str, float] = field(default_factory=dict)


BASE = dict(h=12, n=40, m=577, d=64)
SMALL = dict(h=2, n=8, m=60, d=16, compiled=False)  # compiling takes a minute
STEP_MEMORY = (steps.BASELINE, steps.DEFAULT, steps.DEFAULT_CAUSAL, "ours, dense backend")
LONG = dict(h=2, d=64)


def _long(n: int, causal: bool) -> Benchmark:
    baseline, ours = (long.CAUSAL, long.TILED_CAUSAL) if causal else (long.BASELINE, long.TILED)
    return Benchmark(
        f"self-attention, N {n:,}{', causal' if causal else ''}, H 2, d 64",
        long,
        LONG | dict(n=n),
        LONG | dict(n=300),
        baseline,
        {ours: long.TARGET},
        (baseline, ours),
        long.MEMORY_TARGET,
        (baseline, ours),
    )


BENCHMARKS = {
    "step": Benchmark(
        "attention and one p-Laplacian step, B 8, H 12, N1 40, N2 577, d 64",
        steps,
        BASE | dict(b=8),
        SMALL | dict(b=2),
        steps.BASELINE,
        steps.TARGETS,
        STEP_MEMORY,
    ),
    "step-b2": Benchmark(
        "the same with B 2", steps, BASE | dict(b=2), SMALL | dict(b=1), steps.BASELINE, {}, STEP_MEMORY
    ),
    "peers": Benchmark(
        "the same with B 1 and H 2, and the peers that need gigabytes",
        steps,
        BASE | dict(b=1, h=2, peers=True),
        SMALL | dict(b=1, peers=True),
        steps.BASELINE,
        {},
        (steps.BASELINE, steps.DEFAULT, "per edge (PyG: gather, norm, scatter)", "(N1+N2)²×d"),
    ),
    "training": Benchmark(
        "training step of a BLIP-base decoder, B 8, 40 words, 577 image tokens",
        training,
        dict(b=8, n=40, m=577, layers=12, join="blend"),
        dict(b=1, n=6, m=20, layers=1, join="blend"),
        training.BASELINE,
        training.TARGETS,
        tuple(training.SCHEMES),
    ),
    "long-4k": _long(4096, False),
    "long-4k-causal": _long(4096, True),
    "long-16k": _long(16384, False),
    "long-16k-causal": _long(16384, True),
    "sparse": Benchmark(
        "sparse top-k against the exact step (forward), B 2, H 12, N1 40, N2 577, d 64",
        sparse,
        BASE | dict(b=2),
        SMALL | dict(b=1),
        sparse.BASELINE,
        errors=sparse.errors,
    ),
    "statistics": Benchmark(
        "heterophily statistics of a layer of BLIP-base's sizes, B 8, H 12, 30 words, 577 image nodes, d 64",
        layers,
        dict(b=8, h=12, n=30, m=577, d=64),
        dict(b=1, h=2, n=6, m=20, d=8),
        layers.BASELINE,
    ),
    "answers": Benchmark(
        "ranking 3,128 answers to 64 questions with the mini-BLIP, 128 of them in full",
        answers,
        dict(questions=64, answers=3128, k=128),
        dict(questions=3, answers=20, k=5),
        answers.BASELINE,
        answers.TARGETS,
        (answers.BASELINE, answers.CACHED),
    ),
    "features": Benchmark(
        "an epoch of vanilla adapters at BLIP-base's sizes, 32 images of 224 px",
        features,
        dict(images=32, batch=8, side=224, layers=12),
        dict(images=2, batch=1, side=32, layers=1, tiny=True),
        features.BASELINE,
        features.TARGETS,
    ),
    "pictures": Benchmark(
        "1,000 pictures of 64 px from files to a model's inputs",
        pictures,
        dict(count=1000),
        dict(count=50),
        pictures.BASELINE,
        pictures.TARGETS,
    ),
    "tables": Benchmark(
        "tables of a made VQA v2 of the official size, 658,111 questions, in the Karpathy split",
        tables,
        dict(share=1),
        dict(share=1e-3),
        tables.BASELINE,
        memory=(tables.BASELINE, tables.FIRST, tables.EVERY),
        seconds=tables.SECONDS,
        megabytes=tables.MEGABYTES,
    ),
}


def run_benchmark(benchmark: Benchmark, repeats: int, quick: bool, seed: int) -> dict:
    """One benchmark's numbers, as JSON."""
    options = (benchmark.quick if quick else benchmark.options) | {"seed": seed}
    measured = _compared(benchmark, options, repeats)
    errors = benchmark.errors(options) if benchmark.errors else {}
    for name, run in measured.items():
        if "failed" in run:
            continue
        if name in benchmark.targets:
            run["target"] = benchmark.targets[name]
        if name in benchmark.memory:
            run["extra_mb"] = extra_memory(benchmark.module.__name__, name, options)
        if name in errors:
            run["error"] = errors[name]
        for limits, limit in ((benchmark.seconds, "seconds_limit"), (benchmark.megabytes, "mb_limit")):
            if name in limits:
                run[limit] = limits[name]
    return {
        "title": benchmark.title + (" (quick: other, tiny sizes)" if quick else ""),
        "baseline": benchmark.baseline,
        "options": options,
        "memory_target": benchmark.memory_target,
        "runs": measured,
    }


def _compared(benchmark: Benchmark, options: dict, repeats: int) -> dict[str, dict]:
    """Times of a benchmark's runs, or why one failed."""
    runs = benchmark.module.runs(options)
    names = benchmark.only or tuple(runs)
    times, failed = compare({name: runs[name] for name in names}, benchmark.baseline, repeats)
    return {name: {"failed": failed[name]} if name in failed else times[name]._asdict() for name in names}
