"""Tiles cover every edge once, and skip those that a causal mask hides."""

import pytest
import torch

from attngraph.backends.tiles import columns_of_tiles


@pytest.mark.parametrize("triangular", [False, True])
@pytest.mark.parametrize("n, m", [(5, 7), (7, 7), (1, 9), (0, 4), (4, 0)])
@pytest.mark.parametrize("rows, size", [(2, 6), (3, 1), (100, 1000), (8, 1040)])
def test_every_edge_lies_in_one_tile(n, m, rows, size, triangular):
    if triangular and m < n:
        pytest.skip("no such attention")
    seen = torch.zeros(n, m)
    for column in columns_of_tiles(n, m, rows, size, triangular):
        for tile in column:
            seen[tile.rows, tile.columns] += 1
    visible = torch.ones(n, m).tril(m - n) if triangular else torch.ones(n, m)
    assert (seen[visible > 0] == 1).all() and (seen <= 1).all()
