"""Single numbers that are learned: p, μ, the share of a join."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

SPEED = 10
"""How many times faster than the entries of a matrix a single number is learned."""


class Scalar(nn.Module):
    """A learned number. Calling it gives its value, a tensor without dimensions.

    Adam moves every parameter by about the learning rate per step. That suits matrices, but a share has the
    whole way from 0 to 1 to go. So the parameter, ``stored``, is the value divided by :data:`SPEED`, and its
    gradient is that of the value: under any first-order optimiser the value moves as if it had :data:`SPEED`
    times the learning rate, without a parameter group of its own, and gradient clipping sees the norm that it
    would see then. (The derivative by ``stored`` itself would be :data:`SPEED` times as large and would
    dominate that norm.)

    ``stored`` has the shape ``(1,)``: FSDP takes no parameter without dimensions, and the usual rule decays
    only parameters of two dimensions or more. ``.half()`` and its like leave it in single precision, since
    half precision would swallow its steps.

    Args:
        value: where it starts.
    """

    def __init__(self, value: float):
        super().__init__()
        self.stored = nn.Parameter(torch.tensor([value / SPEED], dtype=torch.float32))

    def forward(self) -> Tensor:
        return (self.stored + (SPEED - 1) * self.stored.detach()).reshape(())

    @torch.no_grad()
    def set(self, value: float) -> None:
        """Give the number another value."""
        self.stored.fill_(value / SPEED)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Scalar:
        """What ``to``, ``half`` and ``cuda`` call for every parameter."""

        def precise(x: Tensor) -> Tensor:
            got = fn(x)
            return x.to(got.device) if got.dtype in (torch.float16, torch.bfloat16) else got

        return super()._apply(precise, recurse)


def learned_values(module: nn.Module) -> dict[str, float]:
    """Current values of the numbers that a module and its parts learn, by their names."""
    parts = module.named_modules()
    return {name: float(part().detach()) for name, part in parts if isinstance(part, Scalar)}
