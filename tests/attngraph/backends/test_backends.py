"""Backends: PyG message passing over the non-zero edges, and tiles, which cover every edge once."""

import pytest
import torch

from attngraph.backends import BACKENDS, edges_of
from attngraph.backends.message_passing import WeightedSum
from attngraph.backends.tiles import columns_of_tiles
from tests.adapters.contract import random_graph
from tests.pairwise import pairwise_params


def test_weighted_sum_is_a_matrix_product():
    x, w = torch.randn(5, 3), torch.rand(4, 5)
    target, source = w.nonzero(as_tuple=True)
    torch.testing.assert_close(
        WeightedSum().weighted_sum(x, torch.stack([source, target]), w[target, source], 4), w @ x
    )
    none = torch.zeros(2, 0, dtype=torch.long)
    assert torch.equal(
        WeightedSum().weighted_sum(torch.ones(4, 3), none, torch.zeros(0), 2), torch.zeros(2, 3)
    )


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


def test_backends_by_name():
    graph, _ = random_graph(1)
    for name, kind in BACKENDS.items():
        assert type(edges_of(graph, name)) is kind
