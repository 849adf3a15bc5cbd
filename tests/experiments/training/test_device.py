"""Where bfloat16 pays."""

import pytest
import torch

from attngraph.errors import UserError
from experiments.training.device import bfloat16_pays, check_device, training_precision, uses_bfloat16

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


def test_a_device_that_is_not_there():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="--device cuda is not available here .*: use cpu"):
        check_device("cuda")
