"""Where bfloat16 pays."""

import os

import pytest
import torch

from attngraph.errors import UserError
from experiments.runs.device import (
    bfloat16_pays,
    check_device,
    check_threads,
    cpu_threads,
    half_precision,
    training_precision,
    uses_bfloat16,
)

CPUINFO = "vendor_id\t: {}\nflags\t\t: fpu sse2 avx512f {}\n"


@pytest.mark.parametrize(
    ("vendor", "flags", "pays"),
    [
        ("AuthenticAMD", "avx512_bf16", True),
        ("AuthenticAMD", "avx2", False),
        ("GenuineIntel", "avx512_bf16", False),
        ("GenuineIntel", "avx512_bf16 amx_bf16 amx_tile", True),
        ("GenuineIntel", "avx2", False),
    ],
)
def test_processors(vendor, flags, pays):
    assert bfloat16_pays(CPUINFO.format(vendor, flags)) == pays


def test_arm_processors():
    assert bfloat16_pays("Features\t: fp asimd sve bf16 i8mm\n")
    assert not bfloat16_pays("Features\t: fp asimd\n")


def test_the_precision_in_words():
    words = {True: "bfloat16 autocast", False: "float32"}
    assert training_precision("cpu") == words[uses_bfloat16("cpu")]
    assert not uses_bfloat16("mps")


def test_half_precision_is_not_refused_from_afar(monkeypatch):
    """The command that submits jobs may run where no GPU is. A GPU without bfloat16 emulates it, slowly."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert half_precision("cuda", "bfloat16") == "bfloat16" and half_precision("cuda", "float16") == "float16"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert half_precision("cuda:7", "float16") == "float16" and half_precision("cuda:7") is None
    with pytest.raises(UserError, match="bfloat16 is not computed by the GPU cuda:7: choose float16 or"):
        half_precision("cuda:7", "bfloat16")
    with pytest.raises(UserError, match="bfloat16 is not trained on mps"):
        half_precision("mps", "bfloat16")


def test_a_device_that_is_not_there():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="--device cuda is not available here .*: use cpu"):
        check_device("cuda")


@pytest.mark.parametrize("device", ["meta", "toaster", "", "cpu:1", "cuda:-1", "mkldnn"])
def test_what_is_no_device_to_compute_on(device):
    with pytest.raises(UserError, match=f"--device {device}.*: use cpu") as error:
        check_device(device)
    assert "\n" not in str(error.value)


def test_threads_are_bounded_and_given_back(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    for threads in (-1, 0, 4, 1_000_000):
        with pytest.raises(UserError, match=f"--on threads must be at least 1 and at most 3.*got {threads}"):
            check_threads(threads)
    check_threads(3)
    before = torch.get_num_threads()
    with pytest.raises(KeyError), cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
