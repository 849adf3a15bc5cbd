"""Energies against loops over edges, the Laplacian, and known answers."""

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.utils import erdos_renyi_graph, get_laplacian, to_dense_adj

from analysis.bipartite import Bipartite
from analysis.energy import dirichlet, dirichlet_normalised, norm, p_dirichlet, p_dirichlet_normalised
from tests.analysis.example_graphs import random_graph


def loops(graph: Bipartite, e: int, h: int, p: float) -> float:
    total, weight = 0.0, graph.weight[e, h]
    d, f = weight.sum(1), weight.sum(0)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            if weight[i, j] > 0:
                step = graph.query[e, h, i] / d[i] ** 0.5 - graph.value[e, h, j] / f[j] ** 0.5
                total += (weight[i, j] ** 0.5 * step.norm()).item() ** p
    return total


@pytest.mark.parametrize(
    "options", [{}, {"kind": "self", "causal": True}, {"softmax": False, "padding": False}]
)
def test_against_loops(options):
    graph = Bipartite.of(random_graph(**options))
    for e in range(2):
        for h in range(3):
            assert dirichlet(graph)[e, h].item() == pytest.approx(loops(graph, e, h, 2), rel=1e-9)
            for p in (1, 1.5, 2, 3):
                assert p_dirichlet(graph, p)[e, h].item() == pytest.approx(loops(graph, e, h, p), rel=1e-9)


def test_is_the_laplacian_form_of_pyg():
    torch.manual_seed(0)
    index = erdos_renyi_graph(20, 0.3)
    x = torch.randn(20, 3, dtype=torch.float64)
    sparse = get_laplacian(index, normalization="sym", num_nodes=20, dtype=torch.float64)
    laplacian = to_dense_adj(sparse[0], edge_attr=sparse[1])[0]
    expected = torch.trace(x.T @ laplacian @ x).item()
    graph = Bipartite.of(Data(x=x, edge_index=index))  # every node on both sides: twice the energy
    assert dirichlet(graph).item() == pytest.approx(2 * expected, rel=1e-9)


def test_range_and_known_answers():
    graph = Bipartite.of(random_graph(softmax=False, padding=False))
    root = graph.query_degree.sqrt()[..., None], graph.value_degree.sqrt()[..., None]
    smooth, rough = (Bipartite(graph.weight, graph.visible, root[0], sign * root[1]) for sign in (1, -1))
    assert dirichlet_normalised(smooth).abs().max() < 1e-12
    assert torch.allclose(dirichlet_normalised(rough), torch.full((2, 3), 2.0, dtype=torch.float64))
    normalised = dirichlet_normalised(graph)
    assert (normalised > 0).all() and (normalised < 2).all()
    wide = Bipartite(7 * graph.weight, graph.visible, 3 * graph.query, 3 * graph.value)
    assert torch.allclose(dirichlet(wide), 9 * dirichlet(graph))
    assert torch.allclose(p_dirichlet_normalised(wide), p_dirichlet_normalised(graph))
    with pytest.raises(ValueError, match="p must be at least 1"):
        p_dirichlet(graph, 0.5)
    assert torch.allclose(p_dirichlet_normalised(graph, 2), normalised)


def test_nodes_without_edges_and_tiny_degrees():
    graph = Bipartite.of(random_graph())  # the last example has padding
    parts = graph.weight[1:, :, :-1, :-2], graph.visible[1:, :-1, :-2]
    shorter = Bipartite(*parts, graph.query[1:, :, :-1], graph.value[1:, :, :-2])
    assert torch.allclose(p_dirichlet_normalised(graph)[1:], p_dirichlet_normalised(shorter))
    weight = graph.weight.float()
    weight[..., 0] = 1e-38  # 1/e would overflow
    tiny = Bipartite(weight, graph.visible, graph.query.float(), graph.value.float())
    assert p_dirichlet(tiny).isfinite().all() and dirichlet(tiny).isfinite().all()
    nothing = Bipartite(torch.zeros_like(graph.weight), graph.visible, graph.query, graph.value)
    assert dirichlet_normalised(nothing).isnan().all() and (norm(nothing, 2) == 0).all()
