"""The arguments of a forward pass."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from torch import nn


def arguments(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``module(*args, **kwargs)`` by name; defaults are left out."""
    kind: Any = type(module)
    bound = _signature(kind).bind_partial(module, *args, **kwargs).arguments
    return bound | bound.pop("kwargs", {})


@cache
def _signature(kind: Any) -> inspect.Signature:
    return inspect.signature(kind.forward)
