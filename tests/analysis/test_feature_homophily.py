"""Feature homophily, aggregation and neighbourhood similarity against loops and known answers."""

import math
from dataclasses import replace
from itertools import permutations, product

import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from analysis.bipartite import Bipartite
from analysis.feature_homophily import (
    aggregation,
    cosine,
    generalised_edge,
    modified_aggregation,
    neighbourhood_contrast,
    neighbourhood_similarity,
)
from analysis.labels import Labels
from analysis.mixing import Mixing
from analysis.nulls import uniform
from tests.analysis.example_graphs import random_graph


def test_cosine_against_features_after_the_output_projection():
    """The metric alone must give the cosines of the wide features x W_o."""
    torch.manual_seed(0)
    graph = random_graph(n=6, m=8)
    output = torch.randn(3, 4, 12, dtype=torch.float64)  # W_o per head
    graph = replace(graph, metric=output @ output.mT)
    observed, chance = cosine(Bipartite.of(graph)), generalised_edge(Bipartite.of(graph))
    for e in range(2):
        for h in range(3):
            sides = graph.query[e, h] @ output[h], graph.value[e, h] @ output[h]
            similar = cosine_similarity(*(side.numpy() for side in sides))
            weight = graph.weight[e, h].numpy()
            expected = sum(weight[i, j] * similar[i, j] for i in range(6) for j in range(8)) / weight.sum()
            d, e_ = weight.sum(1), weight.sum(0)
            null = sum(d[i] * e_[j] * similar[i, j] for i in range(6) for j in range(8)) / weight.sum() ** 2
            assert observed[e, h].item() == pytest.approx(expected, abs=1e-12)
            assert chance[e, h].item() == pytest.approx(expected - null, abs=1e-12)


def aggregated(out, y: list[int]) -> float:
    wins, counted = 0.0, 0
    for i in range(len(y)):
        own = [float(out[i] @ out[k]) for k in range(len(y)) if k != i and y[k] == y[i]]
        other = [float(out[i] @ out[k]) for k in range(len(y)) if y[k] != y[i]]
        if own and other:
            counted += 1
            wins += sum(own) / len(own) > sum(other) / len(other)
    return wins / counted


def test_aggregation_and_neighbourhoods_against_loops():
    graph = Bipartite.of(random_graph(n=9, m=11))
    draw = torch.Generator().manual_seed(3)
    y, z = torch.randint(0, 3, (2, 9), generator=draw), torch.randint(0, 4, (2, 11), generator=draw)
    y[:, 4] = 3  # a class of one query
    labels = Labels(y, z, shared=False).on(graph)
    mixing = Mixing(graph, labels)
    signal = graph.weight @ graph.value
    by_label, by_feature = aggregation(mixing), aggregation(mixing, signal)
    assert torch.equal(aggregation(mixing, 1e-6 * signal), by_feature)  # what a tie is depends on no unit
    similarity, contrast = neighbourhood_similarity(mixing), neighbourhood_contrast(mixing)
    for e in range(2):
        rows = graph.rows[e].nonzero()[:, 0].tolist()
        kinds = [labels.query[e, 0, i].item() for i in rows]
        codes = torch.nn.functional.one_hot(labels.value[e, 0].clamp(min=0)).double()
        for h in range(3):
            out = graph.weight[e, h] @ codes
            assert by_label[e, h].item() == pytest.approx(aggregated([out[i] for i in rows], kinds))
            assert by_feature[e, h].item() == pytest.approx(
                aggregated([signal[e, h, i] for i in rows], kinds)
            )
            cosines = cosine_similarity(out[rows].numpy())
            own, other = [], []
            for k, c in product(sorted(set(kinds)), repeat=2):
                pairs = [
                    cosines[a, b]
                    for a, b in permutations(range(len(rows)), 2)
                    if (kinds[a], kinds[b]) == (k, c)
                ]
                mean = sum(pairs) / len(pairs) if pairs else math.nan
                assert similarity[e, h, k, c].item() == pytest.approx(mean, nan_ok=True)
                if pairs:
                    (own if k == c else other).append(mean)
            assert contrast[e, h].item() == pytest.approx(sum(own) / len(own) - sum(other) / len(other))


def test_known_answers():
    """Each query reads the other class only: no homophily, yet neighbourhoods tell the classes apart
    completely."""
    y = torch.arange(6) % 2
    weight = (y[:, None] != y[None]).double()
    graph = Bipartite(weight[None, None], torch.ones(1, 6, 6, dtype=torch.bool))
    mixing = Mixing(graph, Labels.same(y).on(graph))
    assert aggregation(mixing).item() == 1 and modified_aggregation(mixing).item() == 1
    assert torch.equal(neighbourhood_similarity(mixing)[0, 0], torch.eye(2, dtype=torch.float64))
    assert neighbourhood_contrast(mixing).item() == 1
    flat = Mixing(uniform(graph), Labels.same(y).on(graph))
    assert aggregation(flat).item() == 0.5 and modified_aggregation(flat).item() == 0  # all ties
    assert neighbourhood_contrast(flat).item() == pytest.approx(0, abs=1e-12)
    # a query that looks at nothing but a value without a class counts nowhere
    wide = torch.block_diag(weight, torch.ones(1, 1)).double()
    wide = Bipartite(wide[None, None], torch.ones(1, 7, 7, dtype=torch.bool))
    labels = Labels(*(torch.cat([y, torch.tensor([last])])[None] for last in (0, -1)))
    more = Mixing(wide, labels.on(wide))
    assert aggregation(more).item() == neighbourhood_contrast(more).item() == 1
    assert torch.equal(neighbourhood_similarity(more), neighbourhood_similarity(mixing))
    single = Mixing(graph, Labels.same(torch.zeros(6, dtype=torch.long)).on(graph))
    assert aggregation(single).isnan().item() and neighbourhood_contrast(single).isnan().item()
