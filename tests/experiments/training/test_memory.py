"""What becomes of freed memory."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from experiments.training.memory import keep_freed_memory
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
