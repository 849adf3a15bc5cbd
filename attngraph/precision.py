"""The precision in which weights and features are summed."""

from __future__ import annotations

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """``x`` in float32 if it is in half precision (float16 or bfloat16), else ``x`` itself."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
