"""Cosines and energies against loops over edges, the Laplacian, and known answers; the spectrum from the
block against the eigenvectors of the whole square graph."""

from dataclasses import replace

import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from torch_geometric.data import Data
from torch_geometric.utils import erdos_renyi_graph, get_laplacian, to_dense_adj

from attngraph.analysis.along import along_edges
from attngraph.analysis.bipartite import Bipartite
from attngraph.analysis.energy import (
    decompose,
    energies,
    energies_of_graphs,
    spectral_density,
    spectral_energy,
)
from attngraph.analysis.nulls import Draws, permutation, rearranged, uniform
from attngraph.analysis.sums import EdgeSums
from tests.analysis.example_graphs import random_graph


def over_norm(graph: Bipartite, p: float = 2) -> torch.Tensor:
    return energies(graph, p).p_dirichlet_normalised


def test_cosine_against_features_after_the_output_projection():
    """The metric alone must give the cosines of the wide features x W_o."""
    torch.manual_seed(0)
    graph = random_graph(n=6, m=8)
    output = torch.randn(3, 4, 12, dtype=torch.float64)  # W_o per head
    graph = replace(graph, metric=output @ output.mT)
    observed, excess = energies(Bipartite.of(graph))[:2]
    for e in range(2):
        for h in range(3):
            sides = graph.query[e, h] @ output[h], graph.value[e, h] @ output[h]
            similar = cosine_similarity(*(side.numpy() for side in sides))
            weight = graph.weight[e, h].numpy()
            expected = sum(weight[i, j] * similar[i, j] for i in range(6) for j in range(8)) / weight.sum()
            d, e_ = weight.sum(1), weight.sum(0)
            null = sum(d[i] * e_[j] * similar[i, j] for i in range(6) for j in range(8)) / weight.sum() ** 2
            assert observed[e, h].item() == pytest.approx(expected, abs=1e-12)
            assert excess[e, h].item() == pytest.approx(expected - null, abs=1e-12)


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
            assert energies(graph).dirichlet[e, h].item() == pytest.approx(loops(graph, e, h, 2), rel=1e-9)
            for p in (1, 1.5, 2, 3):
                assert energies(graph, p).p_dirichlet[e, h].item() == pytest.approx(
                    loops(graph, e, h, p), rel=1e-9
                )


@pytest.mark.parametrize("options", [{}, {"kind": "self", "causal": True, "softmax": False}])
def test_nulls_are_graphs(options):
    """Permuted features meet the degrees of other nodes."""
    graph = Bipartite.of(random_graph(b=3, n=6, **options))
    draws = Draws(4)
    orders = [permutation(graph, draws) for _ in range(2)]
    along = along_edges(graph, 1.25, EdgeSums.of(graph), orders, EdgeSums.uniform(graph))
    found = energies_of_graphs(graph, 1.25, along)
    graphs = [graph, *(rearranged(graph, order) for order in orders), uniform(graph)]
    for one, null in zip(found, graphs, strict=True):
        torch.testing.assert_close(torch.stack(one), torch.stack(energies(null, 1.25)))


def test_is_the_laplacian_form_of_pyg():
    torch.manual_seed(0)
    index = erdos_renyi_graph(20, 0.3)
    x = torch.randn(20, 3, dtype=torch.float64)
    sparse = get_laplacian(index, normalization="sym", num_nodes=20, dtype=torch.float64)
    laplacian = to_dense_adj(sparse[0], edge_attr=sparse[1])[0]
    expected = torch.trace(x.T @ laplacian @ x).item()
    graph = Bipartite.of(Data(x=x, edge_index=index))  # every node on both sides: twice the energy
    assert energies(graph).dirichlet.item() == pytest.approx(2 * expected, rel=1e-9)


def test_range_and_known_answers():
    graph = Bipartite.of(random_graph(softmax=False, padding=False))
    root = graph.query_degree.sqrt()[..., None], graph.value_degree.sqrt()[..., None]
    smooth, rough = (Bipartite(graph.weight, graph.visible, root[0], sign * root[1]) for sign in (1, -1))
    assert over_norm(smooth).abs().max() < 1e-12
    assert torch.allclose(over_norm(rough), torch.full((2, 3), 2.0, dtype=torch.float64))
    share = over_norm(graph)
    assert (share > 0).all() and (share < 2).all()
    wide = Bipartite(7 * graph.weight, graph.visible, 3 * graph.query, 3 * graph.value)
    assert torch.allclose(energies(wide).dirichlet, 9 * energies(graph).dirichlet)
    assert torch.allclose(over_norm(wide, 1.5), over_norm(graph, 1.5))
    with pytest.raises(ValueError, match="p must be at least 1"):
        energies(graph, 0.5)
    assert torch.allclose(energies(graph).dirichlet_normalised, share)


def test_nodes_without_edges_and_tiny_degrees():
    graph = Bipartite.of(random_graph())  # the last example has padding
    parts = graph.weight[1:, :, :-1, :-2], graph.visible[1:, :-1, :-2]
    shorter = Bipartite(*parts, graph.query[1:, :, :-1], graph.value[1:, :, :-2])
    assert torch.allclose(over_norm(graph, 1.5)[1:], over_norm(shorter, 1.5))
    weight = graph.weight.float()
    weight[..., 0] = 1e-38  # 1/e would overflow
    tiny = Bipartite(weight, graph.visible, graph.query.float(), graph.value.float())
    assert energies(tiny).p_dirichlet.isfinite().all() and energies(tiny).dirichlet.isfinite().all()
    nothing = Bipartite(torch.zeros_like(graph.weight), graph.visible, graph.query, graph.value)
    assert over_norm(nothing).isnan().all() and (energies(nothing).p_dirichlet == 0).all()


@pytest.mark.parametrize(
    "options", [{}, {"kind": "self", "causal": True}, {"n": 7, "m": 5, "padding": False}]
)
def test_against_the_square_graph(options):
    graph = Bipartite.of(random_graph(**options))
    energy, density = spectral_energy(graph, 7), spectral_density(graph, 7)
    n, m = graph.weight.shape[2:]
    for e in range(2):
        for h in range(3):
            square = torch.zeros(n + m, n + m, dtype=torch.float64)
            square[:n, n:] = graph.symmetric()[e, h]
            keep = torch.cat([graph.rows[e], graph.columns[e]])
            square = (square + square.T)[keep][:, keep]
            x = torch.cat([graph.query[e, h], graph.value[e, h]])[keep]
            values, vectors = torch.linalg.eigh(torch.eye(len(square)) - square)
            share = (vectors.T @ x).square().sum(1) / x.square().sum()
            place = ((values + 1e-12) * 3.5).long().clamp(0, 6)  # 7 bins on [0, 2]
            expected = torch.zeros(7, dtype=torch.float64).index_add(0, place, share)
            assert torch.allclose(energy[e, h], expected, atol=1e-9)
            counts = torch.zeros(7, dtype=torch.float64).index_add(0, place, torch.ones_like(share)) / len(
                share
            )
            assert torch.allclose(density[e, h], counts, atol=1e-9)


def test_mean_frequency_is_the_dirichlet_energy():
    graph = Bipartite.of(random_graph(softmax=False))
    frequency, share = decompose(graph)
    assert torch.allclose(share.sum(-1), torch.ones(2, 3, dtype=torch.float64))
    assert torch.allclose((frequency * share).sum(-1), over_norm(graph))


def test_spectra_of_known_features():
    graph = Bipartite.of(random_graph(softmax=False, padding=False))
    root = graph.query_degree.sqrt()[..., None], graph.value_degree.sqrt()[..., None]
    with pytest.raises(ValueError, match="odd"):
        spectral_energy(graph, 4)
    for sign, place in ((1, 0), (-1, -1)):
        energy = spectral_energy(Bipartite(graph.weight, graph.visible, root[0], sign * root[1]), 5)
        assert torch.allclose(energy[..., place], torch.ones(2, 3, dtype=torch.float64))
