"""What becomes of freed memory."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from experiments.runs.memory import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, keep_freed_memory

FAULTS = """
import resource, sys, torch
from experiments.runs.memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
torch.set_num_threads(1)
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    sum(float(torch.ones(2**24)[0]) for _ in range(4))  # 64 MB, which glibc gives back otherwise
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(kept, faults)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_arrays_are_used_again_without_new_pages():
    results = {}
    for word in ("keep", "leave"):
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True
        )
        results[word] = done.stdout.split()
    kept, faults = results["keep"]
    if kept == "False":
        pytest.skip("another C library than glibc")
    assert int(faults) < 100 < int(results["leave"][1])


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_an_older_glibc_that_takes_no_larger_threshold_keeps_what_it_can(monkeypatch):
    took = {}

    def mallopt(parameter: int, value: int) -> int:
        if parameter == M_MMAP_THRESHOLD and value > 2**25:
            return 0
        took[parameter] = value
        return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    assert keep_freed_memory()
    assert took == {M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**30}
