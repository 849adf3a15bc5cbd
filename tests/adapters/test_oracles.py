"""Oracles from outside: PyG's own layers on the square graph, identities, and published figures."""

import math

import pytest
import torch
from torch_geometric.nn import APPNP as PygAPPNP
from torch_geometric.nn import GCN2Conv, GCNConv

from adapters import APPNP, GCN, GCNII, PGNN
from attngraph import AttentionGraph
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


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("alpha", [0.1, 0.6])
def test_appnp_is_pygs(steps, alpha):
    graph, output = random_graph(1, sparse=True)
    pyg = PygAPPNP(K=steps, alpha=alpha, add_self_loops=False)
    want = every_head(graph, output, pyg)
    for backend in ("dense", "sparse"):
        torch.testing.assert_close(APPNP(alpha=alpha, steps=steps)(graph, backend) @ output, want)


@pytest.mark.parametrize("steps", [1, 2, 3])
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

    scheme = GCNII(alpha=alpha, theta=theta, steps=steps)
    with torch.no_grad():
        torch.testing.assert_close(scheme(graph) @ output, every_head(graph, output, gcnii))


def test_gcnii_combines_as_pygs_layer_with_the_bottleneck_as_matrix():
    torch.manual_seed(0)
    h, update = torch.randn(5, 6), torch.randn(5, 6)
    scheme = GCNII(theta=0.7, steps=2)
    beta = math.log(0.7 / 2 + 1)
    torch.testing.assert_close(scheme.combine(h, update), (1 - beta) * h + beta * update)


def test_gcn_is_pygs():
    graph, output = random_graph(3, width=6, sparse=True)
    for normalize in (False, True):
        conv = GCNConv(6, 6, bias=False, normalize=normalize, add_self_loops=normalize).double()
        with torch.no_grad():
            conv.lin.weight.copy_(torch.eye(6))
            got = GCN(normalize=normalize)(graph) @ output
            torch.testing.assert_close(got, every_head(graph, output, conv))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("degree", ["sum", "mean"])
class TestIdentities:
    def test_p_2_reweights_nothing(self, causal, degree):
        graph, _ = random_graph(4, causal=causal, padded=True)
        torch.testing.assert_close(PGNN(p=2, learn_p=False, degree=degree).reweight(graph), graph.weight)

    def test_p_2_without_residual_is_the_normalised_sum_times_the_degree(self, causal, degree):
        """α_i = 1/Σ_j (M_ij/d_i) = 1, so Ū = S V."""
        graph, _ = random_graph(4, causal=causal)
        got = PGNN(p=2, mu=0, learn_p=False, degree=degree)(graph)
        s = APPNP(degree=degree).reweight(graph)
        torch.testing.assert_close(got, s @ graph.value)
        torch.testing.assert_close(
            s, graph.weight / graph.value_degree(degree).sqrt() / graph.query_degree().sqrt()
        )

    def test_p_2_is_appnp(self, causal, degree):
        """With softmax rows, α_i = 1/(1 + μ) and β_i = μ/(1 + μ), a teleport share on the query side."""
        graph, _ = random_graph(4, causal=causal)
        torch.testing.assert_close(
            PGNN(p=2, mu=0.25, learn_p=False, degree=degree)(graph), APPNP(alpha=0.2, degree=degree)(graph)
        )

    def test_a_large_mu_gives_back_the_query(self, causal, degree):
        graph, _ = random_graph(4, causal=causal)
        torch.testing.assert_close(
            PGNN(p=1.5, mu=1e6, steps=3, degree=degree).double()(graph), graph.query, rtol=0, atol=1e-4
        )

    def test_uniform_attention(self, causal, degree):
        """With degree="mean", S = M; with the sum, S_ij = (1/m)/√(queries/m)."""
        graph, _ = random_graph(4, n=6, m=4, causal=causal)
        b, h, n, m, d = graph.shape
        graph = AttentionGraph(
            graph.query, graph.value, torch.full((b, h, n, m), 1 / m, dtype=torch.float64), causal=causal
        )
        queries = torch.arange(1, n + 1, dtype=torch.float64)[:, None] if causal else n
        want = (
            graph.weight
            if degree == "mean"
            else ((1 / m) / (queries / torch.tensor(m).double()).sqrt()).expand(b, h, n, m)
        )
        torch.testing.assert_close(APPNP(degree=degree).reweight(graph), want)


def test_uniform_attention_with_padding():
    """Padded queries and values count nowhere: S = M on what is left."""
    b, h, n, m = 2, 1, 5, 6
    query_mask, value_mask = torch.ones(b, n, dtype=torch.bool), torch.ones(b, m, dtype=torch.bool)
    query_mask[1, 3:], query_mask[0, 0], value_mask[1, :2] = False, False, False
    weight = value_mask[:, None, None] / value_mask.sum(-1)[:, None, None, None]
    for causal in (False, True):
        graph = AttentionGraph(
            torch.zeros(b, h, n, 2),
            torch.zeros(b, h, m, 2),
            weight.expand(b, h, n, m),
            query_mask,
            value_mask,
            causal,
        )
        torch.testing.assert_close(APPNP(degree="mean").reweight(graph), graph.weight)


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


def test_pgnn_weights_are_powers_of_the_feature_gradient():
    """M̄ = M ‖√(M/d_i) V̂_i − √(M/e_j) V̂_j‖^(p−2), features after W_o."""
    graph, output = random_graph(6)
    query, value = graph.query @ output, graph.value @ output
    d, e = graph.weight.sum(-1, keepdim=True), graph.weight.sum(-2, keepdim=True)
    for p in (1.25, 2.75):
        gradient = (
            (graph.weight / d).sqrt()[..., None] * query[:, :, :, None]
            - (graph.weight / e).sqrt()[..., None] * value[:, :, None]
        ).norm(dim=-1)
        torch.testing.assert_close(
            PGNN(p=p, learn_p=False).reweight(graph), graph.weight * gradient ** (p - 2)
        )


def test_alpha_is_that_of_the_receiving_node():
    """A graph where it matters: one query of two equals the other's in everything but its weights."""
    graph, output = random_graph(12, b=1, h=1, n=2, m=3)
    scheme = PGNN(p=1.5, mu=0.3, learn_p=False)
    weight = scheme.reweight(graph)
    d, e = graph.weight.sum(-1, keepdim=True), graph.weight.sum(-2, keepdim=True)
    residual = 2 * 0.3 / 1.5
    messages = weight / (d * e).sqrt()
    target = 1 / ((weight / d).sum(-1, keepdim=True) + residual)
    source = 1 / ((weight / e).sum(-2, keepdim=True) + residual)
    ours = scheme(graph)
    torch.testing.assert_close(ours, target * (messages @ graph.value + residual * graph.query))
    assert not torch.allclose(
        ours, (messages * source) @ graph.value + target * residual * graph.query, rtol=1e-2
    )


def test_more_steps_change_only_pgnn_in_a_decoder():
    graph, _ = random_graph(5, causal=True)
    assert torch.equal(APPNP(steps=3)(graph), APPNP(steps=1)(graph))
    assert torch.equal(GCNII(steps=3)(graph), GCNII(steps=1)(graph))
    assert not torch.allclose(PGNN(steps=3).double()(graph), PGNN(steps=1).double()(graph), rtol=1e-3)
    encoder, _ = random_graph(5, causal=False)
    assert not torch.allclose(APPNP(steps=3)(encoder), APPNP(steps=1)(encoder), rtol=1e-3)
