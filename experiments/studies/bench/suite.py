"""All benchmarks: sizes, baselines, targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from experiments.studies.bench import kernels, models, tables
from experiments.studies.bench.measure import Run, compare, extra_memory


@dataclass(frozen=True)
class Benchmark:
    """Runs that are compared with each other.

    Args:
        title: for the table.
        runs: makes the runs, by name, from options.
        options: sizes.
        quick: other sizes for a quick look, and to load what is loaded at first use.
        baseline: what the others are measured by.
        wanted: of a run, the ``target`` that its ratio should not exceed, or ``seconds_limit`` and
            ``mb_limit``, for its time and its extra memory.
        memory: the runs whose memory is measured.
        memory_target: extra memory should not exceed this times the baseline's.
        errors: relative errors of the runs.
    """

    title: str
    runs: Callable[[dict], dict[str, Run]]
    options: dict
    quick: dict
    baseline: str
    wanted: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    memory: tuple[str, ...] = ()
    memory_target: float | None = None
    errors: Callable[[dict], dict[str, float]] | None = None


BASE = dict(h=12, n=40, m=577, d=64)
SMALL = dict(h=2, n=8, m=60, d=16, compiled=False)  # compiling takes a minute
STEP_MEMORY = (kernels.ATTENTION, kernels.OURS, kernels.OURS_CAUSAL, kernels.DENSE)


def _long(n: int, causal: bool) -> Benchmark:
    ending = ", causal" * causal
    baseline, ours = f"{kernels.FUSED}{ending}", f"{kernels.TILED}{ending}"
    return Benchmark(
        f"self-attention, N {n:,}{ending}, H 2, d 64",
        kernels.long,
        dict(h=2, d=64, n=n, causal=causal),
        dict(h=2, d=64, n=300, causal=causal),
        baseline,
        {ours: {"target": 5.0}},
        (baseline, ours),
        memory_target=2.0,
    )


BENCHMARKS = {
    "step": Benchmark(
        "attention and one p-Laplacian step, B 8, H 12, N1 40, N2 577, d 64",
        kernels.step,
        BASE | dict(b=8),
        SMALL | dict(b=2),
        kernels.ATTENTION,
        {kernels.OURS: {"target": 2.2}, kernels.OURS_CAUSAL: {"target": 2.5}},
        STEP_MEMORY,
    ),
    "step-b2": Benchmark(
        "the same with B 2",
        kernels.step,
        BASE | dict(b=2),
        SMALL | dict(b=1),
        kernels.ATTENTION,
        memory=STEP_MEMORY,
    ),
    "peers": Benchmark(
        "the same with B 1 and H 2, and the peers that need gigabytes",
        kernels.step,
        BASE | dict(b=1, h=2, peers=True),
        SMALL | dict(b=1, peers=True),
        kernels.ATTENTION,
        memory=(kernels.ATTENTION, kernels.OURS, kernels.PER_EDGE, kernels.SQUARE),
    ),
    "training": Benchmark(
        "training step of a BLIP-base decoder, B 8, 40 words, 577 image tokens",
        models.training,
        dict(b=8, n=40, m=577, layers=12, width=768, heads=12, words=30524, join="blend"),
        dict(b=1, n=6, m=20, layers=1, width=16, heads=2, words=50, join="blend"),
        models.VANILLA,
        {models.P_ADAPTERS: {"target": 1.2}},
        tuple(models.SCHEMES),
    ),
    "long-4k": _long(4096, False),
    "long-4k-causal": _long(4096, True),
    "long-16k": _long(16384, False),
    "long-16k-causal": _long(16384, True),
    "sparse": Benchmark(
        "sparse top-k against the exact step (forward), B 2, H 12, N1 40, N2 577, d 64",
        kernels.sparse,
        BASE | dict(b=2),
        SMALL | dict(b=1),
        kernels.EXACT,
        errors=kernels.sparse_errors,
    ),
    "statistics": Benchmark(
        "heterophily statistics of a layer of BLIP-base's sizes, B 8, H 12, 30 words, 577 image nodes, d 64",
        kernels.statistics,
        dict(b=8, h=12, n=30, m=577, d=64),
        dict(b=1, h=2, n=6, m=20, d=8),
        kernels.CROSS_ATTENTION,
    ),
    "answers": Benchmark(
        "ranking 3,128 answers to 64 questions with the mini-BLIP, 128 of them in full",
        models.answers,
        dict(questions=64, answers=3128, k=128),
        dict(questions=3, answers=20, k=5),
        models.IN_FULL,
        {models.FROM_CACHE: {"target": 0.5}},
        (models.IN_FULL, models.FROM_CACHE),
    ),
    "features": Benchmark(
        "an epoch of vanilla adapters at BLIP-base's sizes, 32 images of 224 px",
        models.features,
        dict(images=32, batch=8, side=224, layers=12, width=768),
        dict(images=2, batch=1, side=32, layers=1, width=64),
        models.ENCODED,
        {models.CACHED: {"target": 0.33}},
    ),
    "pictures": Benchmark(
        "1,000 pictures of 64 px from files to a model's inputs",
        models.pictures,
        dict(count=1000),
        dict(count=50),
        models.SECOND,
        {models.LOADED: {"target": 1.0}, models.CHANGED: {"target": 1.0}},
    ),
    "tables": Benchmark(
        "tables of a made VQA v2 of the official size, 658,111 questions, in the Karpathy split",
        tables.runs,
        dict(share=1),
        dict(share=1e-3),
        tables.BASELINE,
        {
            tables.FIRST: {"seconds_limit": 60.0},
            tables.WARM: {"seconds_limit": 3.0},
            tables.EVERY: {"mb_limit": 300.0},  # mapped from files: all processes share them
        },
        (tables.BASELINE, tables.FIRST, tables.EVERY),
    ),
}
SEED = 0  # of the random inputs


def run_benchmark(benchmark: Benchmark, repeats: int, quick: bool) -> dict:
    """One benchmark's numbers, as JSON."""
    small = benchmark.quick | {"seed": SEED}
    options = small if quick else benchmark.options | {"seed": SEED}
    runs = benchmark.runs(options)
    times, failed = compare(runs, benchmark.baseline, repeats)
    errors = benchmark.errors(options) if benchmark.errors else {}
    measured: dict[str, dict] = {}
    for name in runs:
        if name in failed:
            measured[name] = {"failed": failed[name]}
            continue
        run = measured[name] = {**times[name]._asdict(), **benchmark.wanted.get(name, {})}
        if name in benchmark.memory:
            run["extra_mb"] = extra_memory(benchmark.runs, name, options, small)
        if name in errors:
            run["error"] = errors[name]
    return {
        "title": benchmark.title + (" (quick: other, tiny sizes)" if quick else ""),
        "baseline": benchmark.baseline,
        "options": options,
        "memory_target": benchmark.memory_target,
        "runs": measured,
    }
