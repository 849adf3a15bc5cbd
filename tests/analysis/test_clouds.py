"""Distances of clouds against loops, scikit-learn, and known answers."""

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from attngraph.analysis.bipartite import Bipartite
from attngraph.analysis.clouds import cka, mmd, neighbour_cka, probe_auc
from attngraph.analysis.nulls import uniform
from attngraph.analysis.sums import EdgeSums
from tests.analysis.example_graphs import random_graph


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hsic(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimator as a sum over different pairs, triples and quadruples (Gretton et al. 2005)."""
    k, g, n = x @ x.T, y @ y.T, len(x)
    pairs = sum(k[i, j] * g[i, j] for i, j in permutations(range(n), 2)) / (n * (n - 1))
    triples = sum(k[i, j] * g[i, q] for i, j, q in permutations(range(n), 3))
    quads = sum(k[i, j] * g[q, r] for i, j, q, r in permutations(range(n), 4))
    return pairs - 2 * triples / (n * (n - 1) * (n - 2)) + quads / (n * (n - 1) * (n - 2) * (n - 3))


def test_cka_against_sums_over_tuples():
    x, y = points(2, 7, 3), points(2, 7, 4, seed=1)
    x[:, :, 0] += y[:, :, 0]
    valid = torch.ones(2, 7, dtype=torch.bool)
    valid[1, -1] = False
    result = cka(x, y, valid)
    for e, n in ((0, 7), (1, 6)):
        a, b = x[e, :n].numpy(), y[e, :n].numpy()
        own = max(0, hsic(a, a)) * max(0, hsic(b, b))
        assert result[e].item() == pytest.approx(hsic(a, b) / math.sqrt(own))


def test_cka_known_answers():
    x, valid = points(1, 400, 3), torch.ones(1, 400, dtype=torch.bool)
    turn = torch.linalg.qr(points(3, 3, seed=2))[0]
    assert cka(x, 5 * x @ turn + 1, valid).item() == pytest.approx(1)
    assert abs(cka(x, points(1, 400, 3, seed=3), valid).item()) < 0.05
    assert cka(x[:, :3], x[:, :3], valid[:, :3]).isnan().item()
    assert cka(x[:, :4], x[:, :4], valid[:, :4]).item() == pytest.approx(1)


def cka_of(graph: Bipartite) -> torch.Tensor:
    sums = EdgeSums.of(graph, graph.value)
    return neighbour_cka(graph.query, sums.at_queries[..., None, :], sums)[..., 0]


def test_neighbour_cka():
    graph = Bipartite.of(random_graph(n=9, m=9, padding=False))
    eye = torch.eye(9, dtype=torch.float64).expand(2, 3, 9, 9)
    own = replace(graph, weight=eye, value=graph.query)
    assert torch.allclose(cka_of(own), torch.ones(2, 3, dtype=torch.float64))
    parts = {name: getattr(graph, name).float() for name in ("weight", "query", "value")}
    single = replace(graph, **parts)
    assert cka_of(uniform(single)).isnan().all()
    assert torch.allclose(cka_of(single).double(), cka_of(graph), atol=1e-4)
    small = replace(graph, query=1e-6 * graph.query, value=1e-6 * graph.value)
    assert torch.allclose(cka_of(small), cka_of(graph))


def pool(x: torch.Tensor, y: torch.Tensor):
    both = torch.cat([x, y], -2)
    is_query = (torch.arange(both.shape[-2]) < x.shape[-2]).expand(both.shape[:-1])
    return both, is_query[..., None], torch.ones_like(is_query)


def test_mmd_against_loops():
    both, is_query, valid = pool(points(5, 3), points(6, 3, seed=1) + 0.5)
    valid = valid.clone()
    valid[-1] = False
    kept = both[:-1]
    square = torch.cdist(kept, kept).square()
    kernel = torch.exp(-square / (square.sum() / (10 * 9)))
    qq = sum(kernel[i, j] for i in range(5) for j in range(5) if i != j) / 20
    vv = sum(kernel[i, j] for i in range(5, 10) for j in range(5, 10) if i != j) / 20
    qv = kernel[:5, 5:].mean()
    assert mmd(both, is_query, valid).item() == pytest.approx((qq + vv - 2 * qv).item())


@pytest.mark.parametrize("n,m,most", [(64, 64, 1.73), (64, 8, 2.0)])
def test_largest_mmd_depends_on_the_sides(n, m, most):
    """Two single points, far apart: the bandwidth is the mean over all pairs, so it tells how many pairs
    cross."""
    result = mmd(*pool(torch.zeros(n, 3), torch.full((m, 3), 50.0))).item()
    assert (
        result
        == pytest.approx(2 - 2 * math.exp(-(n + m) * (n + m - 1) / (2 * n * m)))
        == pytest.approx(most, abs=0.02)
    )


def test_probe_is_linear_discriminant_analysis():
    """With a ridge of s/(1 - s), its covariance is shrunk by s. Two divisions of the same points."""
    scale = torch.tensor([3, 9, 0.5, 1])
    both, is_query, valid = pool(points(60, 4) * scale, points(90, 4, seed=1) * scale + 0.6)
    draw = torch.Generator().manual_seed(0)
    is_query = torch.cat([is_query, is_query[torch.randperm(150, generator=draw)]], -1)
    fold = torch.rand(150, generator=draw) < 0.5
    for ridge, options in ((0, {}), (0.25, dict(solver="lsqr", shrinkage=0.2))):
        areas = []
        for half in (fold, ~fold):
            for sides in is_query.unbind(-1):
                fitted = LinearDiscriminantAnalysis(**options).fit(both[half].numpy(), sides[half].numpy())
                scores = fitted.decision_function(both[~half].numpy())
                areas.append(roc_auc_score(sides[~half].numpy(), scores))
        expected = [sum(areas[k::2]) / 2 for k in range(2)]
        assert probe_auc(both, is_query, valid, fold, ridge=ridge).tolist() == pytest.approx(expected)
