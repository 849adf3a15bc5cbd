"""Backends: PyG message passing over the non-zero edges, and their names."""

import pytest
import torch

from attngraph import AttentionScores
from attngraph.adapters import APPNP, PGNN
from attngraph.backends import BACKENDS, edges_of
from attngraph.backends.dense import DenseEdges
from attngraph.backends.message_passing import WeightedSum
from attngraph.backends.sparse import SparseEdges
from tests.adapters.contract import random_graph


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


def test_backends_by_name():
    graph, _ = random_graph(1)
    kinds = {"dense": DenseEdges, "sparse": SparseEdges, "tiled": DenseEdges}
    assert {name: type(edges_of(graph, name)) for name in BACKENDS} == kinds
    for run in (edges_of, PGNN().double()):
        with pytest.raises(ValueError, match="backend must be one of dense, sparse, tiled, got 'tile'"):
            run(graph, "tile")


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_queries(backend, causal):
    """The tiled backend hands degrees on from the last query of each chunk."""
    with torch.no_grad():
        scores = AttentionScores(*(torch.randn(1, 2, nodes, 4) for nodes in (0, 5, 5)), causal=causal)
        assert APPNP()(scores, backend).shape == (1, 2, 0, 4)
