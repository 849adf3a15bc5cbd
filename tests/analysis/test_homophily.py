"""Label statistics against loops over edges and against other libraries' definitions and published
numbers."""

import math
from dataclasses import replace
from itertools import permutations, product

import networkx
import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from sklearn.metrics.pairwise import cosine_similarity
from torch.nn.functional import pad
from torch_geometric.data import Data
from torch_geometric.utils import erdos_renyi_graph, homophily, to_undirected

from attngraph.analysis.bipartite import Bipartite
from attngraph.analysis.homophily import (
    ALL_DIFFER,
    ALL_PAIRS,
    EMPTY,
    FINE,
    NO_PAIR,
    ONE_CLASS,
    ROLES,
    Mixing,
    adjusted,
    adjusted_of_edges,
    aggregation,
    class_insensitive,
    degenerate,
    edge,
    label_informativeness,
    label_informativeness_of_edges,
    neighbourhood_contrast,
    neighbourhood_similarity,
    node_query,
    node_value,
)
from attngraph.analysis.labels import Labels
from attngraph.analysis.nulls import Draws, uniform
from tests.analysis.example_graphs import block_model, random_graph


def mixing_of(graph, labels) -> Mixing:
    view = Bipartite.of(graph)
    return Mixing.of(view, (labels if isinstance(labels, Labels) else Labels.same(labels)).on(view))


def plain(edges, n: int, undirected: bool = False, **fields) -> Data:
    index = torch.tensor(edges).T
    return Data(edge_index=to_undirected(index) if undirected else index, num_nodes=n, **fields)


def node_of_pyg(mixing) -> torch.Tensor:
    """Labelled nodes without edges count as 0."""
    labelled, reached = mixing.labels.query >= 0, mixing.at_queries.sum(-2) > 0
    return node_query(mixing) * (labelled & reached).sum(-1) / labelled.sum(-1)


def labels_for(graph, classes: int = 3, seed: int = 1, missing: bool = True) -> Labels:
    b, _, n, m, _ = graph.shape
    draw = torch.Generator().manual_seed(seed)
    low = -1 if missing else 0
    return Labels(
        torch.randint(low, classes, (b, n), generator=draw),
        torch.randint(low, classes, (b, m), generator=draw),
    )


def loops(graph, labels: Labels, e: int, h: int) -> dict[str, float]:
    """Every statistic by its definition, one edge at a time."""
    weight = graph.weight[e, h].tolist()
    visible = graph.visible.expand(graph.shape[0], *graph.shape[2:4])[e].tolist()
    y, z = labels.query[e, 0].tolist(), labels.value[e, 0].tolist()
    n, m = len(y), len(z)
    valid_y = [y[i] if any(visible[i]) else -1 for i in range(n)]
    valid_z = [z[j] if any(visible[i][j] for i in range(n)) else -1 for j in range(m)]
    known = [
        (i, j, weight[i][j])
        for i in range(n)
        for j in range(m)
        if weight[i][j] > 0 and valid_y[i] >= 0 and valid_z[j] >= 0
    ]
    total = sum(w for *_, w in known)
    classes = sorted({*valid_y, *valid_z} - {-1})
    joint = {
        (k, c): sum(w for i, j, w in known if (y[i], z[j]) == (k, c)) / total
        for k in classes
        for c in classes
    }
    a = {k: sum(joint[k, c] for c in classes) for k in classes}
    b = {c: sum(joint[k, c] for k in classes) for c in classes}
    same = sum(joint[k, k] for k in classes)

    def node(side: int) -> float:
        shares = {}
        for edge_ in known:
            own, all_ = shares.get(edge_[side], (0, 0))
            shares[edge_[side]] = own + edge_[2] * (y[edge_[0]] == z[edge_[1]]), all_ + edge_[2]
        return sum(own / all_ for own, all_ in shares.values()) / len(shares)

    chance = sum(a[k] * b[k] for k in classes)
    values = [c for c in valid_z if c >= 0]
    return {
        "edge": same,
        "node_query": node(0),
        "node_value": node(1),
        "adjusted": (same - chance) / (1 - chance),
        "class_insensitive": sum(
            max(0, (joint[k, k] / a[k] if a[k] else 0) - values.count(k) / len(values)) for k in classes
        )
        / (len(classes) - 1),
        "label_informativeness": sum(p * math.log(p / (a[k] * b[c])) for (k, c), p in joint.items() if p)
        / -sum(p * math.log(p) for p in a.values() if p),
    }


FUNCTIONS = {
    "edge": edge,
    "node_query": node_query,
    "node_value": node_value,
    "adjusted": adjusted,
    "class_insensitive": class_insensitive,
    "label_informativeness": label_informativeness,
}


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "self", "causal": True, "n": 9},
        {"n": 9, "m": 11},
        {"n": 8, "m": 9, "softmax": False, "padding": False},
    ],
)
def test_against_loops(options):
    graph = random_graph(**options)
    labels = labels_for(graph)
    mixing = mixing_of(graph, labels)
    for e in range(2):
        for h in range(3):
            for name, expected in loops(graph, labels, e, h).items():
                assert FUNCTIONS[name](mixing)[e, h].item() == pytest.approx(expected, abs=1e-12), name


def test_pyg_and_dgl_published_examples():
    edges, y = [(0, 1), (1, 2), (2, 0), (3, 4)], [0, 0, 0, 0, 1]
    cycle, both_ways = (mixing_of(plain(edges, 5, undirected), y) for undirected in (False, True))
    tail = [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 5)]
    tail = mixing_of(plain(tail, 6, undirected=True), [0, 0, 0, 0, 1, 1])
    for found, published in (
        (edge(cycle), 0.75),
        (node_of_pyg(cycle), 0.6),
        (class_insensitive(cycle), 0.2),
        (adjusted(both_ways), -0.1428571),
        (label_informativeness(tail), 0.251776),
    ):
        assert found.item() == pytest.approx(published, abs=1e-6)


@pytest.mark.parametrize("directed", [False, True])
def test_agrees_with_pyg(directed):
    torch.manual_seed(0)
    index = erdos_renyi_graph(40, 0.08, directed=directed)
    y = torch.randint(0, 4, (40,))
    mixing = mixing_of(Data(edge_index=index, num_nodes=40), y)
    for found, method in (
        (edge(mixing), "edge"),
        (node_of_pyg(mixing), "node"),
        (class_insensitive(mixing), "edge_insensitive"),
    ):
        assert found.item() == pytest.approx(homophily(index, y, method=method), abs=1e-6)


def test_adjusted_is_weighted_kappa():
    graph = random_graph(n=9, m=11, softmax=False, padding=False)
    labels = labels_for(graph, missing=False)
    result = adjusted(mixing_of(graph, labels))
    for e in range(2):
        i, j = np.indices((9, 11)).reshape(2, -1)
        y, z = labels.query[e, 0].numpy()[i], labels.value[e, 0].numpy()[j]
        for h in range(3):
            kappa = cohen_kappa_score(y, z, sample_weight=graph.weight[e, h].numpy().ravel())
            assert result[e, h].item() == pytest.approx(kappa, abs=1e-12)


@pytest.mark.parametrize(
    "make, attribute",
    [(networkx.karate_club_graph, "club"), (networkx.davis_southern_women_graph, "bipartite")],
)
def test_adjusted_is_assortativity(make, attribute):
    graph = make()
    expected = networkx.attribute_assortativity_coefficient(graph, attribute)  # unweighted
    kinds = list(dict.fromkeys(networkx.get_node_attributes(graph, attribute).values()))
    y = [kinds.index(graph.nodes[node][attribute]) for node in graph]
    place = {node: k for k, node in enumerate(graph)}
    data = plain([(place[a], place[b]) for a, b in graph.edges], len(y), undirected=True)
    assert adjusted(mixing_of(data, y)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("directed", [False, True])
def test_statistics_of_edge_lists(directed):
    """Against the dense statistics, with weights, parallel edges, classes far apart and nodes without one."""
    draw = torch.Generator().manual_seed(0)
    index = torch.randint(0, 30, (2, 90), generator=draw)
    index = index if directed else torch.cat([index, index.flip(0)], 1)
    weight = torch.rand(90, generator=draw, dtype=torch.float64).repeat(1 if directed else 2)
    y = torch.tensor([7, 0, 10**9, -1])[torch.randint(0, 4, (30,), generator=draw)]
    mixing = mixing_of(Data(edge_index=index, edge_weight=weight, num_nodes=30), y)
    assert adjusted_of_edges(index, y, weight) == pytest.approx(adjusted(mixing).item(), abs=1e-12)
    found, want = label_informativeness_of_edges(index, y, weight), label_informativeness(mixing)
    assert found == pytest.approx(want.item(), abs=1e-12)


def test_edge_lists_against_other_libraries():
    club = networkx.karate_club_graph()
    y = torch.tensor([club.nodes[node]["club"] == "Officer" for node in club]).long()
    index = torch.tensor(list(club.to_directed().edges)).T
    expected = networkx.attribute_assortativity_coefficient(club, "club")
    assert adjusted_of_edges(index, y) == pytest.approx(expected, abs=1e-12)
    tail = torch.tensor([(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 5)]).T
    tail, classes = torch.cat([tail, tail.flip(0)], 1), torch.tensor([0, 0, 0, 0, 1, 1])
    assert label_informativeness_of_edges(tail, classes) == pytest.approx(0.251776, abs=1e-6)
    # two kinds of nodes: rows of edge_index are values and queries, and so is the pair of classes
    graph = random_graph(b=1, h=1, n=9, m=11, softmax=False, padding=False)[0, 0]
    labels, data = labels_for(graph, missing=False), graph.to_hetero()
    sides, edges = (labels.value[0, 0], labels.query[0, 0]), data["value", "to", "query"]
    z, y = (side[nodes].numpy() for side, nodes in zip(sides, edges.edge_index))
    kappa = cohen_kappa_score(y, z, sample_weight=edges.edge_weight.numpy())
    assert adjusted_of_edges(edges.edge_index, sides, edges.edge_weight) == pytest.approx(kappa, abs=1e-12)
    informed = label_informativeness(mixing_of(graph, Labels(labels.query[:, 0], labels.value[:, 0] + 5)))
    far = label_informativeness_of_edges(edges.edge_index, (sides[0] + 5, sides[1]), edges.edge_weight)
    assert far == pytest.approx(informed.item(), abs=1e-12)


def test_edge_lists_of_many_nodes_and_of_none():
    """An array of all pairs would take 320 GB here."""
    nodes = 200_000
    index = torch.stack([torch.arange(nodes), torch.arange(nodes).roll(1)])
    assert adjusted_of_edges(index, torch.arange(nodes) % 2) == pytest.approx(-1)
    assert label_informativeness_of_edges(index, torch.arange(nodes) % 2) == pytest.approx(1)
    for function in (adjusted_of_edges, label_informativeness_of_edges):
        assert math.isnan(function(index[:, :0], torch.zeros(4, dtype=torch.long)))
        for y, message in (
            (torch.zeros(nodes), r"y must hold integers \(nodes,\), got torch.float32"),
            (torch.zeros(nodes, 1, dtype=torch.long), r"\(200000, 1\): pass y.flatten"),
            (torch.zeros(7, dtype=torch.long), "y has 7 classes, and edge_index names node 199999"),
        ):
            with pytest.raises(ValueError, match=message):
                function(index, y)
        with pytest.raises(ValueError, match="edge_weight must not be negative"):
            function(index, torch.arange(nodes), -torch.ones(nodes))


def reason(graph, labels: Labels) -> int:
    view = Bipartite.of(graph)
    labels = labels.on(view)
    return degenerate(Mixing.of(view, labels), Mixing.of(uniform(view), labels)).item()


def test_degenerate():
    graph = random_graph(b=1, h=1, kind="self", causal=True, n=4, padding=False)
    bare = Bipartite.of(graph).without_self_loops()
    assert reason(graph, Labels.same([0, 1, 0, 1])) == FINE
    assert reason(graph, Labels.same([2, 2, 2, 2])) == ONE_CLASS
    assert reason(bare, Labels.same([0, 1, 2, 3])) == NO_PAIR  # no token twice
    apart = random_graph(b=1, h=1, n=4, m=4, padding=False)
    assert reason(apart, Labels(torch.tensor([[0, 1, 0, 1]]), torch.tensor([[2, 3, 2, 3]]))) == ROLES
    only_own = Bipartite(torch.eye(4)[None, None], torch.eye(4, dtype=torch.bool)[None])
    assert reason(only_own, Labels.same([0, 1, 0, 1])) == ALL_PAIRS
    empty = Data(edge_index=torch.empty(2, 0, dtype=torch.long), num_nodes=4)
    assert reason(empty, Labels.same([0, 1, 0, 1])) == EMPTY
    mixing = mixing_of(empty, [0, 1, 0, 1])
    assert all(function(mixing).isnan().all() for function in FUNCTIONS.values())
    single = mixing_of(graph, [2, 2, 2, 2])
    for function in (adjusted, label_informativeness, class_insensitive):
        assert function(single).isnan().all()


def test_labels_that_all_differ():
    """Dealing them anew renames them, and no more: then a statistic equals its null by construction."""
    cross = Bipartite.of(random_graph(b=1, h=2, n=4, m=5, padding=False))
    apart = Labels(torch.tensor([[0, 0, 1, 1]]), torch.arange(5)[None])
    mixing = Mixing.of(cross, apart.on(cross))
    assert (degenerate(mixing) == ALL_DIFFER).all() and (
        degenerate(mixing, Mixing.of(uniform(cross), apart.on(cross))) == FINE
    ).all()
    dealt = [Mixing.of(cross, apart.permuted(cross, Draws(seed))) for seed in range(4)]
    informed = label_informativeness(mixing)
    assert all(torch.allclose(label_informativeness(single), informed) for single in dealt)
    graph = random_graph(b=1, h=2, kind="self", causal=True, n=4, padding=False)
    bare = Bipartite.of(graph).without_self_loops()
    for labels, expected in (([0, 1, 2, 0], FINE), ([-1, 1, 2, 3], ALL_DIFFER)):
        assert (degenerate(Mixing.of(bare, Labels.same(labels).on(bare))) == expected).all(), labels
    looped = plain([(0, 1), (1, 1), (2, 0)], 3)  # edge homophily 1/3, whoever is who
    assert reason(looped, Labels.same([0, 1, 2])) == ALL_DIFFER
    shifted = Labels(torch.tensor([[0, 1, 2, 3]]), torch.tensor([[1, 2, 3, 0]]))  # "the next one": a finding
    assert reason(random_graph(b=1, h=1, kind="self", n=4, padding=False), shifted) == FINE


def test_relabelling_scaling_and_padding_change_nothing():
    graph = random_graph(n=9, m=11)
    labels = labels_for(graph)
    before = {name: function(mixing_of(graph, labels)) for name, function in FUNCTIONS.items()}
    view = Bipartite.of(graph)
    rows, columns = torch.randperm(9), torch.randperm(11)
    renamed = torch.tensor([7, 3, 5, -1])  # -1 stays last
    moved = Bipartite(5 * view.weight[:, :, rows][..., columns], view.visible[:, rows][..., columns])
    after = mixing_of(moved, Labels(renamed[labels.query[:, 0, rows]], renamed[labels.value[:, 0, columns]]))
    padded = Bipartite(pad(view.weight, (0, 3, 0, 2)), pad(view.visible, (0, 3, 0, 2)))
    sides = pad(labels.query[:, 0], (0, 2), value=1), pad(labels.value[:, 0], (0, 3), value=0)
    wider = mixing_of(padded, Labels(*sides))
    for name, function in FUNCTIONS.items():
        assert torch.allclose(function(after), before[name], equal_nan=True), name
        assert torch.allclose(function(wider), before[name], equal_nan=True), name


def test_different_alphabets_are_refused():
    graph = random_graph(n=9, m=11)
    labels = labels_for(graph)
    mixing = mixing_of(graph, Labels(labels.query[:, 0], labels.value[:, 0], shared=False))
    assert label_informativeness(mixing).isfinite().all()
    for function in (edge, node_query, node_value, class_insensitive, adjusted):
        with pytest.raises(ValueError, match="shared=True"):
            function(mixing)
    single = mixing_of(graph, Labels(torch.zeros(2, 9, dtype=torch.long), labels.value[:, 0], shared=False))
    assert (degenerate(single) == ONE_CLASS).all()


@pytest.mark.parametrize("agreement", [0.1, 1 / 3, 0.9])
def test_recovers_planted_homophily(agreement):
    graph, y, z = block_model(agreement)
    mixing = mixing_of(graph, Labels(y[None], z[None]))
    assert edge(mixing).item() == pytest.approx(agreement, abs=0.02)
    assert adjusted(mixing).item() == pytest.approx((agreement - 1 / 3) / (2 / 3), abs=0.03)
    joint = [agreement / 3] * 3 + [(1 - agreement) / 6] * 6
    expected = sum(p * math.log(9 * p) for p in joint) / math.log(3)
    assert label_informativeness(mixing).item() == pytest.approx(expected, abs=0.02)


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
    mixing = Mixing.of(graph, labels)
    by_label = aggregation(mixing)
    small = Mixing.of(replace(graph, weight=1e-6 * graph.weight), labels)
    assert torch.equal(aggregation(small), by_label)  # what a tie is depends on no unit
    similarity, contrast = neighbourhood_similarity(mixing), neighbourhood_contrast(mixing)
    for e in range(2):
        rows = graph.rows[e].nonzero()[:, 0].tolist()
        kinds = [labels.query[e, 0, i].item() for i in rows]
        codes = torch.nn.functional.one_hot(labels.value[e, 0].clamp(min=0)).double()
        for h in range(3):
            out = graph.weight[e, h] @ codes
            assert by_label[e, h].item() == pytest.approx(aggregated([out[i] for i in rows], kinds))
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


def test_heterophilous_classes_with_neighbourhoods_of_their_own():
    """Each query reads the other class only: no homophily, yet neighbourhoods tell the classes apart
    completely."""
    y = torch.arange(6) % 2
    weight = (y[:, None] != y[None]).double()
    graph = Bipartite(weight[None, None], torch.ones(1, 6, 6, dtype=torch.bool))
    mixing = Mixing.of(graph, Labels.same(y).on(graph))
    assert aggregation(mixing).item() == 1
    assert torch.equal(neighbourhood_similarity(mixing)[0, 0], torch.eye(2, dtype=torch.float64))
    assert neighbourhood_contrast(mixing).item() == 1
    flat = Mixing.of(uniform(graph), Labels.same(y).on(graph))
    assert aggregation(flat).item() == 0.5  # all ties
    assert neighbourhood_contrast(flat).item() == pytest.approx(0, abs=1e-12)
    # a query that looks at nothing but a value without a class counts nowhere
    wide = torch.block_diag(weight, torch.ones(1, 1)).double()
    wide = Bipartite(wide[None, None], torch.ones(1, 7, 7, dtype=torch.bool))
    labels = Labels(*(torch.cat([y, torch.tensor([last])])[None] for last in (0, -1)))
    more = Mixing.of(wide, labels.on(wide))
    assert aggregation(more).item() == neighbourhood_contrast(more).item() == 1
    assert torch.equal(neighbourhood_similarity(more), neighbourhood_similarity(mixing))
    single = Mixing.of(graph, Labels.same(torch.zeros(6, dtype=torch.long)).on(graph))
    assert aggregation(single).isnan().item() and neighbourhood_contrast(single).isnan().item()
