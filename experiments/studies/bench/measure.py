"""Time in interleaved repetitions, and the peak of memory in a process of its own."""

from __future__ import annotations

import gc
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from experiments.runs.device import PeakMemory

Run = Callable[[], object]
LEAST, ENOUGH = 3, 60.0  # a benchmark that takes more than so many seconds ends after so many repetitions


class Times(NamedTuple):
    """Median seconds, and the median of the ratios to the baseline within the same repetition."""

    seconds: float
    ratio: float
    repeats: int


def compare(runs: dict[str, Run], baseline: str, repeats: int) -> tuple[dict[str, Times], dict[str, str]]:
    """Run everything once to warm up, then in turn, ``repeats`` times, or less often if that takes too long.

    The machine may be slower at one time than at another; so ratios are taken between neighbours, and the
    order changes from one repetition to the next.

    Returns:
        Times of what ran, and why the rest did not.
    """
    failed = {}
    for name, run in runs.items():
        try:
            run()
        except Exception as error:  # no compiler, say: the others are measured still
            if name == baseline:
                raise
            failed[name] = (
                f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            )
    names = [name for name in runs if name not in failed]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    began = time.perf_counter()
    for repeat in range(repeats):
        if repeat >= LEAST and time.perf_counter() - began > ENOUGH:
            break
        for name in names if repeat % 2 == 0 else reversed(names):
            gc.collect()
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    return {
        name: Times(
            statistics.median(taken),
            statistics.median(a / b for a, b in zip(taken, seconds[baseline])),
            len(taken),
        )
        for name, taken in seconds.items()
    }, failed


def extra_memory(runs: Callable[[dict], dict[str, Run]], name: str, options: dict, small: dict) -> float:
    """Megabytes that a run needs at most beyond its inputs, measured in a process of its own.

    There the run's inputs are made, a small run loads what is loaded at first use, and then the growth of the
    peak of resident memory over one run counts (``VmHWM``, which Linux can reset; elsewhere the growth of
    ``ru_maxrss``).

    Args:
        runs: a function of a module, which makes runs of options.
        name: which of them; the options tell it too.
        options: JSON values.
        small: options of the small run.
    """
    every = [json.dumps(one | {"name": name}) for one in (options, small)]
    words = [runs.__module__, runs.__name__, name, *every, str(torch.get_num_threads())]
    command = [sys.executable, "-m", "experiments.studies.bench.measure", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"the memory of {name!r} could not be measured: {done.stderr.strip().splitlines()[-1:]}"
        )
    return float(done.stdout.strip().splitlines()[-1])


def _child(module: str, function: str, name: str, options: str, small: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    runs = getattr(importlib.import_module(module), function)
    runs(json.loads(small))[name]()
    run = runs(json.loads(options))[name]
    gc.collect()
    peak = PeakMemory("cpu")
    before = peak.bytes()
    run()
    print((peak.bytes() - before) / 2**20)


if __name__ == "__main__":
    _child(*sys.argv[1:])
