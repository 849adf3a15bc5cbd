"""The machine: devices, threads and memory, the faster precision, processes that share the work."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from accelerate.utils.memory import should_reduce_batch_size

from attngraph.errors import UserError
from attngraph.experiments.base.messages import first_line

PATIENCE = timedelta(hours=6)  # of processes for the first one, which alone reads, draws and encodes pictures
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def check_device(device: str) -> None:
    """Raise :class:`~attngraph.UserError` if the device is not available."""
    try:
        torch.ones(1, device=device).item()  # the device "meta" makes tensors without numbers
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device} is not available here ({first_line(error)}): use cpu") from None
    if torch.device(device).type == "cpu" and device != "cpu":
        raise UserError(f"--device {device}: PyTorch does not number CPUs: use cpu")


def check_threads(threads: int) -> None:
    """Raise :class:`~attngraph.UserError` if the machine has fewer cores."""
    cores = os.cpu_count() or 1
    if not 1 <= threads <= cores:
        raise UserError(
            f"--on threads must be at least 1 and at most {cores}, this machine's cores; got {threads}"
        )


@contextmanager
def cpu_threads(threads: int) -> Iterator[None]:
    """Set the number of threads while the block runs; the last digits of results depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def processes(device: str) -> PartialState:
    """The processes that share the work: those of ``torchrun`` or ``accelerate launch``, else this one
    alone.
    """
    return PartialState(cpu=device == "cpu", timeout=PATIENCE)


def agreed(ask: Callable[[], Any]) -> Any:
    """The result of the first process, or the error raised there, on all processes."""
    state = PartialState()
    answer: list[tuple[Any, UserError | None]] = [(None, None)]
    if state.is_main_process:
        try:
            answer = [(ask(), None)]
        except UserError as error:
            answer = [(None, error)]
    value, error = broadcast_object_list(answer)[0] if state.num_processes > 1 else answer[0]
    if error is not None:
        raise error
    return value


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error is an out-of-memory error of PyTorch, of a GPU or of this machine."""
    words = ("not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    known = isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
    return known or any(word in str(error) for word in words)


def half_precision(device: str, precision: str = "auto") -> bool:
    """Whether training's forward and backward passes are in bfloat16.

    Args:
        device: device of the run.
        precision: field of a :class:`~attngraph.experiments.runs.experiment.Recipe`.

    Raises:
        UserError: the device cannot train in this precision.
    """
    if precision == "auto":
        return uses_bfloat16(device)
    kind = torch.device(device).type
    has_it = kind == "cpu" or (kind == "cuda" and uses_bfloat16(device))
    if precision == "bfloat16" and not has_it:
        raise UserError(f"{device} does not support bfloat16: choose recipe.precision=float32")
    return precision == "bfloat16"


def mixed_precision(device: str | torch.device, precision: str = "auto") -> torch.autocast:
    """Forward passes in :func:`half_precision`, if requested. Weights stay float32."""
    half = half_precision(str(device), precision)
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half)


def training_precision(device: str, precision: str = "auto") -> str:
    """Name of the precision chosen by :func:`half_precision`."""
    return "bfloat16 autocast" if half_precision(device, precision) else "float32"


@cache
def uses_bfloat16(device: str) -> bool:
    """Whether bfloat16 is faster: on GPUs that support it, and on CPUs according to :func:`bfloat16_pays`."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    try:
        return bfloat16_pays(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        return False


def bfloat16_pays(cpuinfo: str) -> bool:
    """Whether bfloat16 autocast is faster than float32 on a CPU, according to the flags reported by Linux.

    On an AMD EPYC with AVX-512 BF16, a step with 64 of the table's examples took 0.6 to 0.8 times as long,
    and a step with 32 about as long; on an Intel Xeon with these instructions but without a matrix unit
    (AMX), 1.35 times as long.
    """
    if "amx_bf16" in cpuinfo:
        return True
    if "avx512_bf16" in cpuinfo:
        return "AuthenticAMD" in cpuinfo
    return " bf16" in cpuinfo  # Arm


# ---- memory ----------------------------------------------------------------------------------------------


class PeakMemory:
    """Peak memory from now on: of the GPU if there is one, else of this process."""

    def __init__(self, device: str):
        self.device = device
        self._samples: list[int] = []
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark

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

    def sample(self) -> None:
        """Record the memory in use, if the system reports it."""
        if self.device.startswith("cuda"):
            self._samples.append(torch.cuda.memory_allocated(self.device))
        elif sys.platform == "linux":
            pages = Path("/proc/self/statm").read_text().split()[1]
            self._samples.append(int(pages) * resource.getpagesize())

    def sampled(self) -> dict[str, float]:
        """``mean`` and 99th percentile (``p99``) of the samples, in bytes; empty without any."""
        if not self._samples:
            return {}
        return {"mean": float(np.mean(self._samples)), "p99": float(np.percentile(self._samples, 99))}


def keep_freed_memory() -> None:
    """Let this process keep up to 1 GiB of freed memory for later allocations. Otherwise glibc returns large
    arrays to the system, and each page of new arrays is cleared, in every training step. Older versions of
    glibc, whose threshold is at most 32 MiB, keep only arrays up to that size.
    """
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        if any(mallopt(M_MMAP_THRESHOLD, size) == 1 for size in (2**30, 2**25)):
            mallopt(M_TRIM_THRESHOLD, 2**30)
