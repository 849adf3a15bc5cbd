"""Rectangles of edges, small enough for the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Tile(NamedTuple):
    """Some queries and some values."""

    rows: slice
    columns: slice


def columns_of_tiles(n: int, m: int, rows: int, size: int, triangular: bool) -> Iterator[list[Tile]]:
    """All edges of n queries and m values: lists of tiles with the same values, queries in order.

    Args:
        rows: queries per tile.
        size: edges per tile, about.
        triangular: leave out tiles in which no query may see a value (those beyond ``i + m - n``).
    """
    rows = min(n, rows)
    width = max(1, size // rows)
    if width > 64:
        width -= 16  # rows a power of two apart share cache lines: products and sums take up to three times as long
    for j in range(0, m, width):
        columns = slice(j, min(j + width, m))
        yield [Tile(slice(i, min(i + rows, n)), columns) for i in range(0, n, rows)
               if not triangular or min(i + rows, n) - 1 + m - n >= j]
