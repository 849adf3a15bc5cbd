"""Tiles cover every edge once, and skip those that a causal mask hides."""

import pytest
import torch

from attngraph.backends.tiles import columns_of_tiles
from tests.pairwise import pairwise_params

NODES = [(5, 7), (7, 7), (1, 9), (0, 4), (4, 0)]
TILES = [(2, 6), (3, 1), (100, 1000), (8, 1040)]


@pytest.mark.parametrize(
    "nodes, tile, triangular", pairwise_params(nodes=NODES, tile=TILES, triangular=[False, True])
)
def test_every_edge_lies_in_one_tile(nodes, tile, triangular):
    n, m = sorted(nodes) if triangular else nodes  # with a triangle there are at least as many values
    rows, size = tile
    seen = torch.zeros(n, m)
    for column in columns_of_tiles(n, m, rows, size, triangular):
        for tile in column:
            seen[tile.rows, tile.columns] += 1
    visible = torch.ones(n, m).tril(m - n) if triangular else torch.ones(n, m)
    assert (seen[visible > 0] == 1).all() and (seen <= 1).all()
