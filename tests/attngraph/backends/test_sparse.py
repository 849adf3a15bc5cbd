"""The sparse backend: PyG message passing over the non-zero edges."""

import pytest
import torch
from torch_geometric.utils import scatter

from adapters import PGNN
from attngraph.backends import edges_of
from attngraph.backends.message_passing import WeightedSum
from tests.adapters.contract import random_graph


def test_weighted_sum_is_a_matrix_product():
    x, w = torch.randn(5, 3), torch.rand(4, 5)
    target, source = w.nonzero(as_tuple=True)
    torch.testing.assert_close(WeightedSum()(x, torch.stack([source, target]), w[target, source], 4), w @ x)


def test_no_edges():
    none = torch.zeros(2, 0, dtype=torch.long)
    assert torch.equal(WeightedSum()(torch.ones(4, 3), none, torch.zeros(0), 2), torch.zeros(2, 3))


@pytest.mark.parametrize("causal", [False, True])
def test_a_scheme_gives_the_same_numbers(causal):
    graph, _ = random_graph(1, causal=causal, padded=True)
    scheme = PGNN(steps=2).double()
    torch.testing.assert_close(scheme(graph, "sparse"), scheme(graph, "dense"))
    scheme(graph, "sparse").sum().backward()
    assert scheme.p_logit.stored.grad.isfinite()


def test_pyg_and_torch_scatter_sum_alike():
    """Where torch-scatter is installed: PyG may hand sums to it."""
    torch_scatter = pytest.importorskip("torch_scatter")
    source, index = torch.randn(300, 4), torch.randint(0, 6, (300,))
    ours = scatter(source, index, dim=0, dim_size=8, reduce="sum")
    assert torch.equal(torch_scatter.scatter_add(source, index, dim=0, dim_size=8), ours)


def test_an_unknown_backend():
    graph, _ = random_graph(1)
    with pytest.raises(ValueError, match="backend must be one of dense, sparse, tiled, got 'fast'"):
        edges_of(graph, "fast")
