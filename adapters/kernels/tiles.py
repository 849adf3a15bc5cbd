"""Rectangles of edges, small enough for the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from attngraph.scores import HIDDEN


class Tile(NamedTuple):
    """The edges between a range of queries and a range of values."""

    rows: slice
    columns: slice


WHOLE = Tile(slice(None), slice(None))
"""All edges."""


def columns_of_tiles(n: int, m: int, rows: int, size: int, triangular: bool) -> Iterator[list[Tile]]:
    """All edges of ``n`` queries and ``m`` values: lists of tiles with the same values, queries in order.

    Args:
        n: number of queries.
        m: number of values.
        rows: queries per tile.
        size: edges per tile, about.
        triangular: leave out tiles in which no query may see a value (those beyond ``i + m - n``).
    """
    rows = max(1, min(n, rows))
    width = max(1, size // rows)
    if width > 64:
        width -= 16  # rows a power of two apart share cache lines, and take up to three times as long
    for j in range(0, m, width):
        columns = slice(j, min(j + width, m))
        yield [
            Tile(slice(i, min(i + rows, n)), columns)
            for i in range(0, n, rows)
            if not triangular or min(i + rows, n) - 1 + m - n >= j
        ]


class RowSums:
    r""":math:`\log_2 \sum_j 2^{s_{ij}}` of each query, a tile at a time (the online softmax).

    Args:
        like: ``(..., n, 1)``, for shape, precision and device.
    """

    def __init__(self, like: Tensor):
        self.high, self.total = torch.full_like(like, HIDDEN / 4), torch.zeros_like(like)

    def add(self, tile: Tile, logits: Tensor) -> None:
        """Add a tile of scores to base 2, which are overwritten."""
        old = self.high[..., tile.rows, :]
        new = torch.maximum(old, logits.amax(-1, keepdim=True))
        sums = logits.sub_(new).exp2_().sum(-1, keepdim=True)
        self.total[..., tile.rows, :].mul_((old - new).exp2_()).add_(sums)
        self.high[..., tile.rows, :] = new

    def log2(self) -> Tensor:
        """The sums; 0 for a query that sees nothing."""
        return torch.where(self.total <= 0, 0, self.high + self.total.log2())
