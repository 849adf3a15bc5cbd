"""The spectrum from the block against the eigenvectors of the whole square graph."""

import pytest
import torch

from analysis.bipartite import Bipartite
from analysis.energy import dirichlet_normalised
from analysis.spectrum import decompose, spectral_density, spectral_energy
from tests.analysis.example_graphs import random_graph


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
    assert torch.allclose((frequency * share).sum(-1), dirichlet_normalised(graph))


def test_known_answers():
    graph = Bipartite.of(random_graph(softmax=False, padding=False))
    root = graph.query_degree.sqrt()[..., None], graph.value_degree.sqrt()[..., None]
    with pytest.raises(ValueError, match="odd"):
        spectral_energy(graph, 4)
    for sign, place in ((1, 0), (-1, -1)):
        energy = spectral_energy(Bipartite(graph.weight, graph.visible, root[0], sign * root[1]), 5)
        assert torch.allclose(energy[..., place], torch.ones(2, 3, dtype=torch.float64))
