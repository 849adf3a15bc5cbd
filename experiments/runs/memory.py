"""The peak of memory over a stretch of work, and what becomes of freed memory."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


class PeakMemory:
    """Peak memory from now on: of the GPU where there is one, else of this process."""

    def __init__(self, device: str):
        self.device = device
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark

    def megabytes(self) -> float:
        """In MB (10^6 bytes)."""
        return self.bytes() / 1e6

    def bytes(self) -> int:
        """In bytes."""
        if self.device.startswith("cuda"):
            return torch.cuda.max_memory_allocated(self.device)
        if sys.platform == "linux":
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    return int(line.split()[1]) * 1024
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def keep_freed_memory() -> bool:
    """Let this process keep memory that it has freed, up to 1 GiB, for what it allocates next; otherwise
    glibc returns large arrays to the system and has each page of new ones cleared, in every training step.
    Of an older glibc, whose threshold ends at 32 MiB, it keeps arrays of up to that.

    Returns:
        Whether it could be set: it is glibc's.
    """
    if sys.platform != "linux":
        return False
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        kept = any(mallopt(M_MMAP_THRESHOLD, size) == 1 for size in (2**30, 2**25))
        return kept and mallopt(M_TRIM_THRESHOLD, 2**30) == 1
    return False
