r"""Only the direction of a scheme's output: :math:`\bar U` at the length of :math:`U`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attngraph.edges import smallest_weight
from attngraph.precision import widen


def rescaled(aggregated: Tensor, plain: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    r"""Each query's aggregated features at the length of its attention output after :math:`W_o`,

    .. math:: \bar U_i \; \frac{\lVert U_i W_o \rVert}{\lVert \bar U_i W_o \rVert} ,

    with merged heads and before the bias :math:`b_o`, which belongs to no node and is added once, by the
    join. Degrees, residual and distances then change the direction of what a query gets, and not how much.
    A query whose aggregated features have no length keeps them.

    Args:
        aggregated: :math:`\bar U` before :math:`W_o`, ``(b, n, h·d)``.
        plain: the attention output before :math:`W_o`, ``(b, n, h·d)``.
        project: applies :math:`W_o` without its bias, ``(b, n, width)``.

    Returns:
        ``(b, n, h·d)``, in the dtype of ``aggregated``.
    """
    factor = length_factor(project(aggregated), project(plain))
    return (widen(aggregated) * factor).to(aggregated.dtype)


def length_factor(x: Tensor, like: Tensor) -> Tensor:
    """By what rows are multiplied to get the lengths of others, ``(..., 1)``; 1 for rows without length."""
    got, want = square_length(x), square_length(like)
    least = smallest_weight(got.dtype)
    factor = (want.clamp(min=least) / got.clamp(min=least)).sqrt()
    return torch.where(got <= least, torch.ones_like(factor), factor)


def square_length(x: Tensor) -> Tensor:
    """Squared lengths of rows, ``(..., 1)``, in float32 where the rows are in half precision."""
    return widen(x).square().sum(-1, keepdim=True)
