"""The machine: what it has, where bfloat16 pays, what becomes of freed memory."""

import os

import pytest
import torch

from attngraph.errors import UserError
from attngraph.experiments.runs.device import (
    bfloat16_pays,
    check_device,
    check_threads,
    cpu_threads,
    half_precision,
    is_out_of_memory,
    training_precision,
    uses_bfloat16,
)


def test_processors_on_which_bfloat16_pays():
    for vendor, flags, pays in (
        ("AuthenticAMD", "avx512_bf16", True),
        ("AuthenticAMD", "avx2", False),
        ("GenuineIntel", "avx512_bf16", False),
        ("GenuineIntel", "avx512_bf16 amx_bf16 amx_tile", True),
        ("Arm", "asimd sve bf16 i8mm", True),
        ("Arm", "fp asimd", False),
    ):
        assert bfloat16_pays(f"vendor_id\t: {vendor}\nflags\t\t: fpu avx512f {flags}\n") == pays


def test_the_precision_in_words():
    words = {True: "bfloat16 autocast", False: "float32"}
    assert training_precision("cpu") == words[uses_bfloat16("cpu")]
    assert not uses_bfloat16("mps")


def test_half_precision_is_refused_where_it_is_emulated(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert half_precision("cpu", "bfloat16") and not half_precision("cpu", "float32")
    assert not half_precision("cuda:7")
    for device in ("cuda:7", "mps"):
        with pytest.raises(UserError, match=f"{device} does not support bfloat16: choose"):
            half_precision(device, "bfloat16")


@pytest.mark.parametrize("device", ["meta", "toaster", "cpu:1"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(UserError, match=f"--device {device}.*: use cpu") as error:
        check_device(device)
    assert "\n" not in str(error.value)


def test_threads_are_bounded_and_given_back(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    for threads in (0, 4):
        with pytest.raises(UserError, match=f"--on threads must be at least 1 and at most 3.*got {threads}"):
            check_threads(threads)
    check_threads(3)
    before = torch.get_num_threads()
    with pytest.raises(KeyError), cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_each_allocator_is_understood_and_nothing_else_is_taken_for_it():
    for message in (
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.",
        "[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried to allocate.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ):
        assert is_out_of_memory(RuntimeError(message))
    assert is_out_of_memory(torch.OutOfMemoryError("no room")) and not is_out_of_memory(
        RuntimeError("shapes")
    )
