"""Single numbers that are learned: p, μ, the share of a join."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from attngraph.errors import UserError

SPEED = 10
"""Factor by which a scalar is learned faster than the entries of a matrix."""


class Scalar(nn.Module):
    """A learned number. Calling it gives its value, a tensor without dimensions.

    Adam moves every parameter by about the learning rate per step. That suits matrices, but an interpolation
    weight has to travel from 0 to 1. So the parameter, ``stored``, is the value divided by :data:`SPEED`, and
    its gradient is that of the value: under any first-order optimiser the value moves as if it had
    :data:`SPEED` times the learning rate, without a separate parameter group, and gradient clipping sees the
    norm that it would see in that case. (The derivative with respect to ``stored`` would be :data:`SPEED`
    times as large and would dominate that norm.)

    ``stored`` has the shape ``(1,)``: FSDP takes no parameter without dimensions, and the usual rule decays
    only parameters of two dimensions or more. ``.half()`` and similar calls keep it in single precision,
    since its steps would vanish in half precision.

    Args:
        value: initial value.

    Raises:
        UserError: it is called with gradients while FSDP has sharded it. (Without gradients, all processes
            call it together and get the full value.)
    """

    def __init__(self, value: float):
        super().__init__()
        self.stored = nn.Parameter(torch.tensor([value / SPEED], dtype=torch.float32))

    def forward(self) -> Tensor:
        stored: Any = self.stored
        if hasattr(stored, "full_tensor"):  # FSDP has left each process a part of it
            if torch.is_grad_enabled():
                raise UserError(
                    "p, μ or the share of a graph adapter is used while FSDP has it sharded, and would get a "
                    "wrong gradient: apply fully_shard to whole layers of the model"
                )
            stored = stored.full_tensor()
        if not torch.is_grad_enabled():
            return (SPEED * stored).reshape(())
        return (stored + (SPEED - 1) * stored.detach()).reshape(())

    def number(self) -> float:
        """The value as a number, where no gradient is wanted."""
        stored: Any = self.stored.detach()  # multiplied as in the forward pass, in the parameter's precision
        return (SPEED * (stored.full_tensor() if hasattr(stored, "full_tensor") else stored)).item()

    @torch.no_grad()
    def set(self, value: float) -> None:
        """Give the number another value."""
        self.stored.fill_(value / SPEED)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Scalar:
        """Called by ``to``, ``half`` and ``cuda`` for every parameter."""

        def precise(x: Tensor) -> Tensor:
            got = fn(x)
            return x.to(got.device) if got.dtype in (torch.float16, torch.bfloat16) else got

        return super()._apply(precise, recurse)


@torch.no_grad()
def learned_values(module: nn.Module) -> dict[str, float]:
    """Current values of the numbers that a module and its parts learn, by their names."""
    return {name: part.number() for name, part in module.named_modules() if isinstance(part, Scalar)}
