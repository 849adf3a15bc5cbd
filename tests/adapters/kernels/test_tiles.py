"""Tiles cover every edge once."""

import pytest
import torch

from adapters.kernels.tiles import columns_of_tiles
from tests.pairwise import pairwise_params


@pytest.mark.parametrize(
    "nodes, tile, triangular",
    pairwise_params(
        nodes=[(5, 7), (7, 7), (1, 9), (0, 4), (4, 0)],
        tile=[(2, 6), (3, 1), (100, 1000)],
        triangular=[False, True],
    ),
)
def test_every_edge_lies_in_one_tile(nodes, tile, triangular):
    """Tiles that a causal mask hides are skipped."""
    n, m = sorted(nodes) if triangular else nodes  # with a triangle there are at least as many values
    seen = torch.zeros(n, m)
    for column in columns_of_tiles(n, m, *tile, triangular):
        for part in column:
            seen[part.rows, part.columns] += 1
    visible = torch.ones(n, m).tril(m - n) if triangular else torch.ones(n, m)
    assert (seen[visible > 0] == 1).all() and (seen <= 1).all()
