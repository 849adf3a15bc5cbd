"""Finding, checking and loading the library of C kernels."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attngraph.errors import UserError

FOLDER = Path(__file__).resolve().parent
VARIANTS = {"avx2": ("AVX2", "AVX512"), "plain": ()}
"""Builds, the best first, and for which ``torch.backends.cpu.get_cpu_capability()`` each is; () for any."""
VARIABLE = "ATTNGRAPH_KERNELS"
"""Environment variable: ``native`` (an error if the library can't be used), ``eager`` (it is not used), or
the name of a variant. Default: the best variant that this processor runs, if there is one."""
REMEDY = "build it with `make setup` or `python setup.py build_ext --inplace`, which needs a C compiler"
EXACT = 3e-7  # what powers and products may differ from torch's, relatively

logger = logging.getLogger(__name__)


class Library(NamedTuple):
    """The library.

    Attributes:
        functions: its functions.
        variant: which build it is.
    """

    functions: ctypes.CDLL
    variant: str

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function that returns 0, or another number if it finds no memory.

        Raises:
            MemoryError: it found none.
        """
        if getattr(self.functions, function)(*arguments):
            raise MemoryError("no memory for the edges of an attention head: use fewer queries or values")


class _Refused(Exception):
    """A library that can't be used; the message says why."""


def library() -> Library | None:
    """The library for this processor, or None where it can't be used or is not wanted.

    Raises:
        UserError: :data:`VARIABLE` names an unavailable library.
    """
    wanted = os.environ.get(VARIABLE, "")
    found, reason = _find(wanted)
    if found is None and wanted not in ("", "eager"):
        raise UserError(f"{VARIABLE}={wanted}: {reason}")
    return found


def status() -> str:
    """One line on whether the library is used, and if not, why."""
    found, reason = _find(os.environ.get(VARIABLE, ""))
    if found is None:
        return f"torch's operations ({reason})"
    return f"native, {found.variant}, {torch.get_num_threads()} of torch's threads"


@cache
def _find(wanted: str) -> tuple[Library | None, str]:
    """The library, or None and the reason."""
    if wanted not in ("", "native", "eager", *VARIANTS):
        return None, f"choose native, eager, {' or '.join(VARIANTS)}, or unset it"
    if wanted == "eager":
        return None, f"{VARIABLE}=eager"
    capability = torch.backends.cpu.get_cpu_capability()
    reason = f"the processor has {capability} only"
    for variant, asks in VARIANTS.items():
        if (asks and capability not in asks) or (wanted in VARIANTS and wanted != variant):
            continue
        try:
            found = Library(_load(variant), variant)
        except _Refused as refusal:
            reason = str(refusal)
            break
        logger.info("C kernels: %s", variant)
        return found, ""
    logger.info("no C kernels: %s", reason)
    return None, reason


def _load(variant: str) -> ctypes.CDLL:
    """A variant, checked and started.

    Raises:
        _Refused: it is missing, damaged, built from other sources, or does not compute the same as torch.
    """
    paths = [FOLDER / f"_kernels_{variant}{suffix}" for suffix in EXTENSION_SUFFIXES]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise _Refused(f"the library is not built: {REMEDY}")
    record = path.with_name(f"{path.name}.sha256")
    try:
        told = record.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        told = ""
    if told != hashlib.sha256(path.read_bytes()).hexdigest():
        raise _Refused(f"{path} is not the file that was built here (its hash differs): {REMEDY}")
    try:
        functions = ctypes.CDLL(str(path))
    except OSError as error:
        raise _Refused(f"{path} can't be loaded ({error}): {REMEDY}") from None
    functions.attngraph_source.restype = ctypes.c_char_p
    if functions.attngraph_source().decode() != source_hash():
        raise _Refused(f"{path} was built from other sources than the installed ones: {REMEDY}")
    sgemm = _address("libtorch_cpu", "sgemm_")
    if sgemm is None:
        raise _Refused("torch has no BLAS whose sgemm_ can be called")
    functions.attngraph_start.argtypes = [ctypes.c_void_p] * 2
    functions.attngraph_start(sgemm, _address("libgomp", "GOMP_parallel"))
    _self_test(functions, path)
    return functions


def source_hash() -> str:
    """Of the C sources in this folder, as ``setup.py`` computes it."""
    digest = hashlib.sha256()
    for path in sorted(FOLDER.glob("*.[ch]")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _address(name: str, function: str) -> int | None:
    """Of a function of a library that torch brings; None if it brings none."""
    folder = Path(torch.__file__).parent / "lib"
    for path in sorted(folder.glob(f"{name}*")):
        try:
            return ctypes.cast(getattr(ctypes.CDLL(str(path)), function), ctypes.c_void_p).value
        except (AttributeError, OSError):
            continue
    return None


def _self_test(functions: ctypes.CDLL, path: Path) -> None:
    """Compare powers, logarithms and products over threads with torch's.

    Raises:
        _Refused: they differ: the compiler or BLAS does not work as the code requires.
    """
    x = torch.linspace(-60, 60, 997, dtype=torch.float32, device="cpu")  # for any default dtype and device
    power, logarithm = torch.empty_like(x), torch.empty_like(x)
    functions.attngraph_powers.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int]
    functions.attngraph_powers(*map(pointer, (x, power, logarithm)), len(x))
    right = [
        torch.allclose(power.double(), x.double().exp2(), rtol=EXACT, atol=0),
        torch.allclose(logarithm, x, rtol=EXACT, atol=EXACT),
    ]
    functions.attngraph_products.argtypes = [ctypes.c_int] * 3 + [ctypes.c_void_p] * 3 + [ctypes.c_int]
    for n in (11, 72):  # own code, and BLAS; of integers, so that sums are exact in any order
        a, b = (torch.arange(k * n * n, device="cpu").float().remainder(7).view(k, n, n) for k in (1, 3))
        products = torch.empty_like(b)
        functions.attngraph_products(3, n, n, *map(pointer, (a, b, products)), torch.get_num_threads())
        wanted = a.double() @ b.double().transpose(1, 2)  # which autocast leaves alone
        right.append(torch.equal(products.double(), wanted))
    if not all(right):
        raise _Refused(f"{path} does not compute the same as torch: {REMEDY}")


def call(function: str, *arguments: Any) -> None:
    """:meth:`Library.call`.

    Raises:
        MemoryError: it found none.
        RuntimeError: there is no library.
    """
    found = library()
    if found is None:
        raise RuntimeError(f"the library of C kernels cannot be used: {status()}")
    found.call(function, *arguments)


def pointer(x: Tensor | None) -> int | None:
    """Of a tensor's numbers."""
    return None if x is None else x.data_ptr()
