"""Check whether operations run under a PyTorch transform that does not support custom autograd functions."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad

_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # since PyTorch 2.7


def transformed() -> bool:
    """Whether a transform of ``torch.func`` (``grad``, ``vmap``, ``jvp``, ...), forward-mode differentiation
    or ``torch.export`` is active.

    Everything then runs in plain tensor operations, and numbers are not looked at.
    """
    active = torch._C._are_functorch_transforms_active()  # what torch.autograd.Function itself asks
    return active or forward_ad._current_level >= 0 or _is_exporting()
