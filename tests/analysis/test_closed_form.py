"""pGNN's closed form against loops over edges, its limit, the bounds of its error, and the scheme's own
weights."""

import math
from dataclasses import replace

import pytest
import torch

from attngraph import AttentionGraph
from attngraph.adapters.pgnn import PGNN
from attngraph.adapters.rotated_queries import RotatedQueries
from attngraph.analysis.closed_form import closed_form
from attngraph.analysis.contrast import Region, contrast, square_distances
from attngraph.backends import edges_of
from tests.analysis.example_graphs import random_graph

GRAPHS = [
    ({}, 1.5, "sum"),
    ({"causal": True}, 2.7, "mean"),
    ({"kind": "self", "causal": True}, 1.5, "mean"),
    ({"softmax": False, "metric": False}, 2.7, "sum"),
]


def loops(graph: AttentionGraph, p: float, degree: str) -> torch.Tensor:
    """The definition on the scheme's own message weights, an edge after the other, ``(b, h, 4)``."""
    edges = edges_of(graph)
    messages = PGNN(p=p, learn_p=False, degree=degree).message_weights(edges)
    e = edges.value_degree(degree).expand_as(graph.weight)
    b, h, n, m, d = graph.shape
    metric = torch.eye(d).double().expand(h, d, d) if graph.metric is None else graph.metric
    found = torch.empty(b, h, 4, dtype=torch.float64)
    for x in range(b):
        for k in range(h):
            pairs, apart = [], []
            for i in range(n):
                on = [j for j in range(m) if graph.weight[x, k, i, j] > 0]
                if not on:
                    continue
                weight = graph.weight[x, k, i, on]
                v = graph.value[x, k, on]
                length = (v @ metric[k] * v).sum(-1).sqrt()
                form = weight ** (p / 2) * e[x, k, i, on] ** ((1 - p) / 2) * length ** (p - 2)
                own = messages[x, k, i, on]
                logs = [(w / weight).log() for w in (own, form)]
                pairs.append(torch.stack([log - log.mean() for log in logs]))
                q = graph.query[x, k, i]
                lengths = (q @ metric[k] @ q) / weight.sum() + length**2 / e[x, k, i, on]
                others = (form, weight ** (p / 2) * lengths ** (p / 2 - 1) / e[x, k, i, on].sqrt(), weight)
                apart.append([(own / own.sum() - w / w.sum()).abs().sum() / 2 for w in others])
            r = torch.corrcoef(torch.cat(pairs, 1))[0, 1]
            found[x, k] = torch.stack([r, *torch.tensor(apart, dtype=torch.float64).mean(0)])
    return found


@pytest.mark.parametrize("options, p, degree", GRAPHS)
def test_against_loops(options, p, degree):
    graph = random_graph(**options)
    found = closed_form(graph, p, degree)
    found = torch.stack([found.r, found.variation, found.without_product, found.from_attention], -1)
    torch.testing.assert_close(found, loops(graph, p, degree), rtol=1e-9, atol=1e-12)


def test_small_degrees_take_the_query_out():
    """The fewer queries share their weight among the values, the nearer pGNN is to its closed form, and the
    nearer its distances are to those of rotated queries; attention stays as far."""
    draw = torch.Generator().manual_seed(0)
    query, value = (torch.randn(1, 2, nodes, 16, generator=draw).double() for nodes in (4, 4096))
    weight = (2 * torch.randn(1, 2, 4, 4096, generator=draw).double()).softmax(-1)
    found = []
    for m in (16, 256, 4096):
        some = weight[..., :m] / weight[..., :m].sum(-1, keepdim=True)
        graph = AttentionGraph(query, value[:, :, :m], some, kind="cross")
        form = closed_form(graph)
        square, turned = square_distances(graph), square_distances(graph, rotated=0)
        expected = RotatedQueries(p=3, learn_p=False).reweight(graph)
        torch.testing.assert_close(some**1.5 * turned.sqrt(), expected)
        ratio = square * some.sum(2, keepdim=True) / value[:, :, None, :m].square().sum(-1)
        longest = query.norm(dim=-1) / value[:, :, :m].norm(dim=-1).amin(-1, keepdim=True)
        sigma = longest * (4 / m) ** 0.5
        assert ((ratio - 1).abs().mean(-1) <= sigma * (2 + sigma)).all()
        apart = (some * (square - turned).abs() / square).sum(-1).mean()
        found.append([1 - form.r.mean(), form.variation.mean(), apart, form.from_attention.mean()])
    first, second, third = torch.tensor(found)
    assert (second[:3] < 0.5 * first[:3]).all() and (third[:3] < 0.5 * second[:3]).all()
    assert third[3] > 0.8 * first[3] and third[3] > 10 * third[1]


def test_what_has_no_number():
    """Without edges nothing is defined; p = 2 is exact; values without length give finite numbers."""
    graph = random_graph(padding=False)
    empty = closed_form(replace(graph, weight=torch.zeros_like(graph.weight)))
    assert empty.r.isnan().all() and empty.variation.isnan().all() and empty.from_attention.isnan().all()
    exact = closed_form(graph, p=2)
    torch.testing.assert_close(exact.r, torch.ones_like(exact.r))
    assert exact.variation.max() < 1e-12 and exact.from_attention.min() > 1e-3
    value = graph.value.clone()
    value[:, :, 0] = 0
    found = closed_form(replace(graph, value=value))
    assert found.r.isfinite().all() and found.variation.isfinite().all()


# ---- the error of the closed form -------------------------------------------------------------------------


def sizes(graph: AttentionGraph, degree: str) -> tuple[torch.Tensor, ...]:
    """s, the cosine of query and value, and e R²/|v|², per edge; NaN where there is none."""
    degrees = edges_of(graph).value_degree(degree).expand_as(graph.weight)
    square = square_distances(graph, degree)
    b, h, n, m, d = graph.shape
    metric = torch.eye(d).double().expand(h, d, d) if graph.metric is None else graph.metric
    found = torch.full((3, b, h, n, m), torch.nan, dtype=torch.float64)
    for x, k, i, j in torch.nonzero(graph.weight).tolist():
        root = torch.linalg.cholesky(metric[k])
        q, v, e = graph.query[x, k, i] @ root, graph.value[x, k, j] @ root, degrees[x, k, i, j]
        d_i = graph.weight[x, k, i].sum()
        found[0, x, k, i, j] = (e / d_i).sqrt() * q.norm() / v.norm()
        found[1, x, k, i, j] = q @ v / (q.norm() * v.norm())
        found[2, x, k, i, j] = e * square[x, k, i, j] / v.square().sum()
    return tuple(found)


def largest(per_edge: torch.Tensor) -> torch.Tensor:
    """Of each query's edges, NaN without edges."""
    most = per_edge.nan_to_num(-1).amax(-1)
    return most.where(most >= 0, torch.nan)


@pytest.mark.parametrize("length", [0.02, 0.2, 2.0])
@pytest.mark.parametrize("options, p, degree", GRAPHS)
def test_errors_are_within_their_bounds(options, p, degree, length):
    """A wrong exponent or degree in the closed form exceeds them where queries are short."""
    graph = random_graph(**options)
    graph = replace(graph, query=length * graph.query)
    s, cosine, ratio = sizes(graph, degree)
    edge = graph.weight > 0
    assert (ratio[edge] <= (1 + s[edge]) ** 2 + 1e-12).all()
    assert (ratio[edge] >= (1 - s[edge]) ** 2 - 1e-12).all()
    sigma = s.square().nanmean(-1).sqrt()
    error, most = (ratio - 1).abs().nanmean(-1), sigma * (2 + sigma)
    assert not (error > most + 1e-12).any()
    t = 2 * s / (1 + s**2)
    found, k = closed_form(graph, p, degree), abs(p - 2)
    bound = torch.tanh(k * torch.atanh(largest(s).clamp(max=1)) / 2).nanmean(-1)
    assert not (found.variation > bound + 1e-9).any() and (length > 0.02 or bound.max() < 0.2)
    bound = torch.tanh(k * torch.atanh(largest(cosine.abs() * t)) / 4).nanmean(-1)
    assert not (found.without_product > bound + 1e-9).any()


@pytest.mark.parametrize("p", [1.0, 1.5, 2.5, 3.0])
def test_bounds_are_reached(p):
    """A query and values on one line: the only one ahead (p < 2) or behind (p > 2) of three gains as much as
    it can."""
    k = abs(p - 2)
    s = (4 ** (1 / k) - 1) / (4 ** (1 / k) + 1)  # weights differ by a factor of ((1 + s)/(1 - s))^k = 4
    query = torch.tensor([[[[s * 3**0.5, 0]]]], dtype=torch.float64)  # value degrees are 1/3
    side = 1 if p < 2 else -1
    value = torch.tensor([[[[side, 0], [-side, 0], [-side, 0]]]], dtype=torch.float64)
    graph = AttentionGraph(query, value, torch.full((1, 1, 1, 3), 1 / 3).double(), kind="cross")
    torch.testing.assert_close(sizes(graph, "sum")[0], torch.full((1, 1, 1, 3), s).double())
    found = closed_form(graph, p)
    for reached in (found.variation, found.without_product):  # 2/3 of the weight in place of 1/3
        assert float(reached) == pytest.approx(1 / 3, abs=1e-9)
        assert math.tanh(k * math.atanh(s) / 2) == pytest.approx(1 / 3)
    assert math.tanh(k * math.atanh(2 * s / (1 + s * s)) / 4) == pytest.approx(1 / 3)


def test_direction_in_the_contrast_of_distances():
    """At equal lengths and degrees, relevant values at cosine c and distractors at c' have the contrast
    s (c - c')/(1 + s² - s (c + c')), at most t = 2 s/(1 + s²)."""
    for s, near, far in ((0.17, 0.8, 0.0), (0.17, 1.0, -1.0), (0.6, -0.4, 0.3)):
        sines = [(1 - c * c) ** 0.5 for c in (near, far)]
        value = torch.tensor([[near, sines[0]], [far, sines[1]], [far, -sines[1]]]).double()
        query = torch.tensor([[s * 3**0.5, 0]]).double()
        weight = torch.full((1, 1, 1, 3), 1 / 3).double()
        graph = AttentionGraph(query[None, None], value[None, None], weight, kind="cross")
        found = contrast(graph, Region(torch.tensor([[[True, False, False]]]))).contrast
        expected = s * (near - far) / (1 + s * s - s * (near + far))
        assert float(found) == pytest.approx(expected) and abs(expected) <= 2 * s / (1 + s * s) + 1e-12
