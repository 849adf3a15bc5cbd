"""Tempering and rotated queries: what they share with pGNN, and what they take from it."""

import pytest
import torch

from adapters import PGNN, RotatedQueries, Tempering
from attngraph.backends import edges_of
from attngraph.rotation import root_of, rotated_metric, rotation
from tests.adapters.contract import BACKENDS, GRAPHS, random_graph

CONTROLS = [Tempering, RotatedQueries]


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("kind", ["encoder, padded", "decoder self, padded"])
@pytest.mark.parametrize("steps, degree", [(1, "sum"), (3, "mean")])
def test_at_p_2_a_control_is_pgnn(control, kind, steps, degree):
    graph, _ = random_graph(1, **GRAPHS[kind])
    args = dict(p=2, mu=0.3, learn_p=False, steps=steps, degree=degree)
    torch.testing.assert_close(control(**args)(graph), PGNN(**args)(graph))
    args["p"] = 1.5
    assert not torch.allclose(control(**args)(graph), PGNN(**args)(graph), rtol=1e-2)


def test_tempering_does_not_look_at_features_for_its_weights():
    graph, _ = random_graph(2)
    other, _ = random_graph(3)
    scheme = Tempering(p=1.3, learn_p=False)
    torch.testing.assert_close(scheme.reweight(graph), graph.weight**0.65)
    assert not torch.allclose(scheme(graph), scheme(other))


@pytest.mark.parametrize("metric", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_rotated_queries_with_the_identity_is_pgnn(metric, backend, monkeypatch):
    monkeypatch.setattr(
        "attngraph.rotation.rotation", lambda features, seed: torch.eye(features).double().numpy()
    )
    graph, _ = random_graph(4, h=3, d=5, causal=True, padded=True)
    graph = graph if metric else type(graph)(graph.query, graph.value, graph.weight)
    args = dict(p=1.3, learn_p=False, steps=2)
    torch.testing.assert_close(RotatedQueries(**args)(graph, backend), PGNN(**args)(graph, backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rotated_queries_keeps_every_length_and_replaces_the_product(backend):
    """The weights follow from turned vectors V̂* in the width of W_o, of the same lengths as V̂."""
    graph, output = random_graph(5, d=4, width=9)
    scheme = RotatedQueries(p=1.4, learn_p=False, seed=3)
    basis = torch.linalg.solve_triangular(torch.linalg.cholesky(graph.metric), output, upper=False)
    query, value = graph.query @ output, graph.value @ output
    turned = query @ basis.mT @ torch.from_numpy(rotation(4, 3)) @ basis
    torch.testing.assert_close(turned.norm(dim=-1), query.norm(dim=-1))
    e = graph.weight.sum(-2)[..., None]
    distance = torch.cdist(turned, value / e.sqrt())
    torch.testing.assert_close(scheme.reweight(graph, backend), graph.weight**0.7 * distance**-0.6)
    edges = edges_of(graph, backend)
    metrics = (None, rotated_metric(edges, scheme.seed))
    pairs = [edges.products(edges.query, edges.value, between) for between in metrics]
    (q0, v0, dot0), (q1, v1, dot1) = ([edges.to_dense(x + 0 * edges.weight) for x in made] for made in pairs)
    assert torch.equal(q0, q1) and torch.equal(v0, v1) and not torch.allclose(dot0, dot1, rtol=0.1)


def test_the_turned_product_does_not_follow_the_true_one():
    """Over many pairs the correlation is that of a random rotation, about trace(Q)/d; the true one's is 1."""
    draw = torch.Generator().manual_seed(0)
    query, value = (torch.randn(4000, 64, generator=draw, dtype=torch.float64) for _ in range(2))
    value = value + query  # pairs that belong together
    true = (query * value).sum(-1)
    for seed in range(3):
        turned = ((query @ torch.from_numpy(rotation(64, seed))) * value).sum(-1)
        assert abs(torch.corrcoef(torch.stack([true, turned]))[0, 1]) < 0.2
        assert abs(turned.mean()) < 0.1 * true.mean()


def test_the_rotation_follows_from_the_seed_alone():
    q = rotation(16, 5)
    rotation.cache_clear()
    assert (q == rotation(16, 5)).all() and not (q == rotation(16, 6)).any()
    torch.testing.assert_close(torch.from_numpy(q @ q.T), torch.eye(16, dtype=torch.float64))
    # the first numbers of a RandomState, which NumPy keeps; their QR decomposition by hand
    x = torch.tensor([[1.764052345967664, 0.4001572083672233], [0.9787379841057392, 2.240893199201458]])
    first = (x[:, 0] / x[:, 0].norm()).double()
    torch.testing.assert_close(torch.from_numpy(rotation(2, 0))[:, 0], first, rtol=1e-6, atol=1e-6)
    assert not RotatedQueries().state_dict().keys() ^ PGNN().state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_singular_metric(dtype):
    """More features per head than the model is wide: G has zero eigenvalues, or slightly negative ones."""
    output = torch.randn(2, 64, 7, generator=torch.Generator().manual_seed(1)).to(dtype)
    metric = output @ output.mT
    root = root_of(metric)
    scale = float(metric.diagonal(dim1=-2, dim2=-1).sum(-1).max())
    assert root.isfinite().all()
    torch.testing.assert_close(
        root @ root.mT / scale, metric / scale, rtol=0, atol=10 * torch.finfo(dtype).eps
    )
    assert root_of(torch.zeros_like(metric)).isfinite().all()


@pytest.mark.parametrize(
    "seed, message", [(-1, "lie in"), (0.5, "whole number"), (True, "number"), ("a", "number")]
)
def test_seeds_that_are_refused(seed, message):
    with pytest.raises(ValueError, match=f"seed must.*{message}"):
        RotatedQueries(seed=seed)
