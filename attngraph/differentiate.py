"""Derivatives of a backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def again(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """A backward pass that can itself be differentiated, for a function whose own one cannot.

    Args:
        function: from the inputs to the outputs, in operations that autograd records.
        inputs: what the function got.
        needed: which of the inputs need gradients.
        grads: gradients of the outputs; None where an output was not used.

    Returns:
        The gradients of the inputs, None where none is needed.
    """
    with torch.enable_grad():
        # the same tensor in two places gets a gradient for each
        parts = [None if x is None else x.view_as(x) for x in inputs]
        pairs = [
            (x, grad) for x, grad in zip(function(*parts), grads) if grad is not None and x.requires_grad
        ]
        wanted = {k: x for k, (x, need) in enumerate(zip(parts, needed)) if x is not None and need}
        outputs, above = [x for x, _ in pairs], [grad for _, grad in pairs]
        found = torch.autograd.grad(
            outputs, list(wanted.values()), above, create_graph=True, allow_unused=True
        )
    by_place = dict(zip(wanted, found))
    return [by_place.get(k) for k in range(len(parts))]
