"""The position embedding of an image encoder, for pictures of another side than it was trained on."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from attngraph.errors import UserError

LARGEST_SIDE = 4096  # pixels; beyond it a picture has more patches than any model of this kind can look at


def interpolate_positions(positions: Tensor, rows: int, mode: str = "bicubic") -> Tensor:
    r"""Positions of a square grid of patches, for a grid with another number of rows.

    As BLIP does it: the row of the class token stays, the others are an image of ``width`` channels, which is
    interpolated bicubically (``align_corners=False``: patch i of n lies at (i + 1/2)/n of the side),

    .. math:: y_{ij} = \sum_{a,b} k(u_i - a) \, k(v_j - b) \, x_{ab},
       \qquad u_i = (i + \tfrac12) \frac{n}{m} - \tfrac12,

    for ``n`` old and ``m`` new rows, with the same ``v``; ``k`` is Keys' kernel with a = -3/4 over the four
    nearest rows and columns, and the edge stands for what lies beyond it. The kernel is not widened where the
    new grid is the smaller one. mPLUG does the same with ``mode="bilinear"``, where ``k`` is a triangle over
    the two nearest.

    Args:
        positions: ``(1, 1 + n * n, width)``, the class token's first, then the patches row by row.
        rows: of the new grid, m.
        mode: ``"bicubic"`` or ``"bilinear"``.

    Returns:
        ``(1, 1 + rows * rows, width)``; the very tensor where the grid is the same.

    Raises:
        ValueError: the positions are of no square grid.
    """
    count, width = positions.shape[1] - 1, positions.shape[2]
    old = math.isqrt(count)
    if old * old != count:
        raise ValueError(f"{count} positions are no square")
    if old == rows:
        return positions
    grid = positions[:, 1:].reshape(1, old, old, width).permute(0, 3, 1, 2)  # (1, width, n, n)
    grid = nn.functional.interpolate(grid, size=(rows, rows), mode=mode, align_corners=False)
    return torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def rows_of(side: int, patch: int) -> int:
    """Rows of patches in a picture.

    Args:
        side: of the picture, in pixels.
        patch: the side of a patch, in pixels.

    Raises:
        UserError: the side is no multiple of the patch's, or more than ``LARGEST_SIDE``.
    """
    if side > LARGEST_SIDE:
        raise UserError(f"side {side}: give at most {LARGEST_SIDE} pixels")
    if side < patch or side % patch:
        near = max(1, round(side / patch)) * patch
        raise UserError(
            f"side {side}: the model sees patches of {patch} pixels, so the side must be a multiple of that, "
            f"such as {near}"
        )
    return side // patch
