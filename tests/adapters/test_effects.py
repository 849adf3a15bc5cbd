"""What a scheme does to a query, against loops in float64 with explicit W_o."""

import math
from dataclasses import replace

import pytest
import torch

from attngraph import AttentionGraph
from attngraph.adapters import APPNP, GCN, GCNII, PGNN, Residual, RotatedQueries, Tempering
from attngraph.adapters.effects import Effect, EffectTally
from attngraph.adapters.p_scheme import PScheme
from tests.adapters import brute_force
from tests.adapters.contract import GRAPHS, random_graph

MU, P = 0.3, 1.4
SCHEMES = {
    "pgnn": (PGNN(p=P, mu=MU, learn_p=False), brute_force.pgnn),
    "tempering": (Tempering(p=P, mu=MU, learn_p=False, degree="mean"), brute_force.tempering),
    "rotated": (RotatedQueries(p=P, mu=MU, learn_p=False), brute_force.rotated_queries),
    "appnp": (APPNP(alpha=0.3), brute_force.pagerank),
    "gcnii": (GCNII(alpha=0.2), brute_force.pagerank),
    "residual": (Residual(alpha=0.4), brute_force.residual),
    "gcn": (GCN(), brute_force.gcn),
    "gcn, normalised": (GCN(normalize=True), brute_force.gcn),
}


def effect(scheme, graph: AttentionGraph, output, **options) -> Effect:
    """Of one graph."""
    tally = EffectTally(scheme, output, **options)
    tally.add(graph)
    return tally.effect()


def share_of_residual(scheme, weight: list[float], degree: float) -> float:
    """β of a query, from the scheme's weights of its edges and its degree."""
    if isinstance(scheme, GCN):
        return 1 / (degree + 1) if scheme.normalize else 0.0
    if hasattr(scheme, "alpha"):
        return scheme.alpha
    return (2 * MU / P) / (sum(weight) / degree + 2 * MU / P)


def through_degrees(scheme, graph: AttentionGraph, weight: list[float], at: tuple) -> list[float]:
    """The weights of a query's message, but for a factor: the p-schemes divide by the values' degrees too."""
    if not isinstance(scheme, PScheme):
        return weight
    k, h, i = at
    assert graph.span is None
    so_far = range(i + 1) if graph.causal else range(graph.shape[2])
    rows = [x for x in so_far if graph.query_mask is None or graph.query_mask[k, x]]
    degrees = [sum(float(graph.weight[k, h, x, j]) for x in rows) for j in range(graph.shape[3])]
    return [w and w / math.sqrt(e) for w, e in zip(weight, degrees)]


def loops(scheme, reference, graph: AttentionGraph, output) -> list[float]:
    """The six averages, a query at a time; ``output`` is ``(h, d, width)``."""
    weights, aggregated = scheme.reweight(graph), reference(scheme, graph, output)
    rows = []
    for k in range(graph.shape[0]):
        for i in range(graph.shape[2]):
            if graph.query_mask is not None and not graph.query_mask[k, i]:
                continue
            kappa = moved = 0.0
            plain, message, whole = (torch.zeros(output.shape[-1], dtype=torch.float64) for _ in range(3))
            heads = graph.shape[1]
            for h in range(heads):
                m, w = graph.weight[k, h, i].tolist(), weights[k, h, i].tolist()
                beta = share_of_residual(scheme, w, sum(m))
                kappa += (1 - beta) / heads
                w = through_degrees(scheme, graph, w, (k, h, i))
                moved += sum(abs(a / sum(w) - b / sum(m)) for a, b in zip(w, m)) / 2 / heads
                for j, x in enumerate(m):
                    plain = plain + x * (graph.value[k, h, j] @ output[h])
                whole = whole + aggregated[k, h, i]
                message = message + aggregated[k, h, i] - beta * (graph.query[k, h, i] @ output[h])
            numbers = [kappa, moved]
            for x in (message, whole):
                numbers += [float(x.norm() / plain.norm()), float(x @ plain / (x.norm() * plain.norm()))]
            rows.append(numbers)
    return [sum(column) / len(rows) for column in zip(*rows)]


def numbers(found: Effect) -> list[float]:
    return [found.kappa, found.moved, found.length, found.cosine, found.whole_length, found.whole_cosine]


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("kind", ["encoder, padded", "encoder, zero weights", "decoder self, padded"])
def test_equals_loops(name, kind):
    graph, output = random_graph(1, h=3, **GRAPHS[kind])
    got = effect(SCHEMES[name][0], graph, output.flatten(0, 1))
    assert numbers(got) == pytest.approx(loops(*SCHEMES[name], graph, output), abs=1e-9)
    assert got.queries == (8 if graph.query_mask is None else int(graph.query_mask.sum()))
    assert got.p == (pytest.approx(P) if hasattr(SCHEMES[name][0], "p") else None) and got.share is None


def test_rescaled_outputs_and_the_heaviest_edges():
    """The first have the length of the attention output; the second are compared with the whole attention."""
    graph, output = random_graph(5, m=6)
    one, free = (effect(PGNN(), graph, output.flatten(0, 1), rescale=x) for x in (True, False))
    assert one.whole_length == pytest.approx(1) and free.whole_length != pytest.approx(1, abs=0.02)
    assert (one.cosine, one.whole_cosine) == pytest.approx((free.cosine, free.whole_cosine))
    assert one.kappa == free.kappa and one.length != pytest.approx(free.length, abs=0.02)
    got = effect(GCN(), graph, output.flatten(0, 1), top_k=2)
    lost = 1 - graph.weight.topk(2, -1)[0].sum(-1)  # of each row, to be shared out among what is left
    assert got.moved == pytest.approx(float(lost.mean())) and got.cosine < 1


def test_autocast_does_not_touch_it():
    graph, output = random_graph(10, n=8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = effect(PGNN(), graph, output.flatten(0, 1).float())
    assert numbers(got) == pytest.approx(numbers(effect(PGNN(), graph, output.flatten(0, 1).float())))


@pytest.mark.parametrize("name", ["pgnn", "appnp", "gcn, normalised"])
def test_graphs_without_anything_to_look_at(name):
    graph, output = random_graph(11, h=3)
    blind = torch.zeros(2, 5, dtype=torch.bool)
    for empty in (
        replace(graph, query_mask=torch.zeros(2, 4, dtype=torch.bool)),
        replace(graph, value_mask=blind),
        AttentionGraph(graph.query[:0], graph.value[:0], graph.weight[:0]),
        AttentionGraph(graph.query[:, :, :0], graph.value, graph.weight[:, :, :0]),
        replace(graph, value=torch.zeros_like(graph.value)),
    ):
        got = effect(SCHEMES[name][0], empty, output.flatten(0, 1))
        assert got.queries == 0 and all(math.isnan(x) for x in numbers(got))
    blind[1] = True  # example 0 sees nothing
    got = effect(SCHEMES[name][0], replace(graph, value_mask=blind), output.flatten(0, 1))
    alone = AttentionGraph(graph.query[1:], graph.value[1:], graph.weight[1:], metric=graph.metric)
    want = effect(SCHEMES[name][0], alone, output.flatten(0, 1))
    assert got.queries == want.queries and numbers(got) == pytest.approx(numbers(want))
