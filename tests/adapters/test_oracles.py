"""Oracles from outside: PyG's own layers on the square graph, identities, and published figures."""

import math

import pytest
import torch
from torch_geometric.nn import APPNP as PygAPPNP
from torch_geometric.nn import GCN2Conv, GCNConv

from attngraph import AttentionGraph
from attngraph.adapters import APPNP, GCN, GCNII, PGNN, RotatedQueries
from attngraph.rotation import root_of, rotation
from tests.adapters.contract import random_graph


def square(graph: AttentionGraph, example: int, head: int, output=None):
    """Node features, edge index and weights of one head's square graph in both directions, built by hand."""
    x = torch.cat([graph.query[example, head], graph.value[example, head]])
    x = x if output is None else x @ output[head]
    n = graph.query.shape[2]
    i, j = graph.weight[example, head].nonzero(as_tuple=True)
    w = graph.weight[example, head][i, j]
    index = torch.cat([torch.stack([i, j + n]), torch.stack([j + n, i])], 1)
    return x, index, torch.cat([w, w])


def every_head(graph, output, layer):
    b, h, n = graph.query.shape[:3]
    return torch.stack(
        [torch.stack([layer(*square(graph, k, head, output))[:n] for head in range(h)]) for k in range(b)]
    )


@pytest.mark.parametrize("steps, alpha", [(1, 0.6), (3, 0.1)])
def test_appnp_is_pygs(steps, alpha):
    graph, output = random_graph(1, sparse=True)
    pyg = PygAPPNP(K=steps, alpha=alpha, add_self_loops=False)
    want = every_head(graph, output, pyg)
    for backend in ("dense", "sparse"):
        torch.testing.assert_close(APPNP(alpha=alpha, steps=steps)(graph, backend) @ output, want)


@pytest.mark.parametrize("steps", [1, 3])
def test_gcnii_is_pygs(steps):
    """Before the bottleneck: PyG's layer with the identity as its matrix, and PyG's β of layer K."""
    graph, output = random_graph(2, width=6)
    alpha, theta = 0.2, 1.1

    def gcnii(x, index, weight):
        degree = torch.zeros(len(x), dtype=x.dtype).index_add(0, index[0], weight)
        weight = weight / (degree[index[0]] * degree[index[1]]).sqrt()
        z = x
        for layer in range(1, steps + 1):
            conv = GCN2Conv(6, alpha=alpha, theta=theta, layer=layer, normalize=False).double()
            with torch.no_grad():
                conv.weight1.copy_(torch.eye(6))
            z = conv(z, x, index, weight)
        assert scheme.beta == pytest.approx(conv.beta)
        return z

    scheme, h, update = GCNII(alpha=alpha, theta=theta, steps=steps), torch.randn(5, 6), torch.randn(5, 6)
    beta = math.log(theta / steps + 1)
    torch.testing.assert_close(scheme.combine(h, update), (1 - beta) * h + beta * update)
    with torch.no_grad():
        torch.testing.assert_close(scheme(graph) @ output, every_head(graph, output, gcnii))


def test_gcn_is_pygs():
    graph, output = random_graph(3, width=6, sparse=True)
    for normalize in (False, True):
        conv = GCNConv(6, 6, bias=False, normalize=normalize, add_self_loops=normalize).double()
        with torch.no_grad():
            conv.lin.weight.copy_(torch.eye(6))
            got = GCN(normalize=normalize)(graph) @ output
            torch.testing.assert_close(got, every_head(graph, output, conv))


def test_the_published_fall_of_row_sums():
    """Uniform attention of 40 ordered queries over 577 values: the row sums of S fall from 24 to 3.8."""
    weight = torch.full((1, 1, 40, 577), 1 / 577)
    graph = AttentionGraph(torch.zeros(1, 1, 40, 2), torch.zeros(1, 1, 577, 2), weight, causal=True)
    sums = APPNP().reweight(graph).sum(-1)[0, 0]
    assert float(sums[0]) == pytest.approx(24.02, abs=0.01) and float(sums[-1]) == pytest.approx(
        3.80, abs=0.01
    )
    assert (sums.diff() < 0).all()
    torch.testing.assert_close(APPNP(degree="mean").reweight(graph).sum(-1)[0, 0], torch.ones(40))


# ---- the controls: tempering and rotated queries -------------------------------------------------------


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


def test_a_singular_metric():
    """More features per head than the model is wide: G has zero eigenvalues, or slightly negative ones."""
    output = torch.randn(2, 64, 7, generator=torch.Generator().manual_seed(1))
    metric = output @ output.mT
    root, scale = root_of(metric), float(metric.diagonal(dim1=-2, dim2=-1).sum(-1).max())
    assert root.isfinite().all() and root_of(torch.zeros_like(metric)).isfinite().all()
    torch.testing.assert_close(root @ root.mT / scale, metric / scale, rtol=0, atol=1e-6)
