import pytest
import torch
from sklearn.cluster import KMeans

from attngraph import AttentionGraph
from attngraph.analysis.bipartite import Bipartite
from attngraph.analysis.labels import (
    IMAGE,
    SPECIAL,
    TEXT,
    Labels,
    SharedClusters,
    classes_of_tokens,
    modality,
)
from attngraph.analysis.nulls import Draws
from tests.analysis.example_graphs import random_graph


def test_permuted_moves_classes_among_labelled_values():
    graph = Bipartite.of(random_graph())  # the second example has padding
    labels = Labels(torch.zeros(2, 5, dtype=torch.long), torch.tensor([[0, -1, 1, 1, -1, 2, 3]]).expand(2, 7))
    plain, moved = labels.on(graph), labels.permuted(graph, Draws(0))
    assert torch.equal(moved.value < 0, plain.value < 0) and not torch.equal(moved.value, plain.value)
    assert torch.equal(moved.value.sort(-1)[0], plain.value.sort(-1)[0]) and torch.equal(
        moved.query, plain.query
    )


def test_permuted_moves_both_sides_of_self_attention_alike():
    graph = Bipartite.of(random_graph(kind="self", n=9, padding=False))
    labels = Labels.same(torch.arange(9).expand(2, 9) % 4)
    moved = labels.permuted(graph, Draws(0))
    one_side = Labels(labels.query[:, 0], labels.value[:, 0].masked_fill(torch.arange(9) == 3, -1))
    dealt = [one_side.permuted(graph, Draws(seed)) for seed in range(6)]
    assert len({(x.value[0, 0] < 0).nonzero().item() for x in dealt}) > 1  # that node moves as well
    assert torch.equal(moved.query, moved.value) and not torch.equal(moved.value[:, 0], labels.value[:, 0])
    unlabelled = torch.arange(9) % 4 == 3  # on both sides: such nodes stay
    moved = Labels.same(torch.where(unlabelled, -1, torch.arange(9)).expand(2, 9)).permuted(graph, Draws(0))
    assert torch.equal(moved.value < 0, unlabelled.expand(2, 1, 9))


def test_wrong_labels():
    values = torch.zeros(2, 7, dtype=torch.long)
    for query in (torch.zeros(2, 5), torch.zeros(5, dtype=torch.long)):
        with pytest.raises(ValueError, match="query labels must be integers"):
            Labels(query, values)
    with pytest.raises(ValueError, match=r"value labels must have shape \(2, 7\)"):
        Labels(values[:, :5], values[:, :5]).on(Bipartite.of(random_graph()))


def test_modality():
    x, mixed = torch.zeros(1, 1, 3, 2), torch.tensor([[True, False, False]])
    graph = AttentionGraph(x, x, torch.full((1, 1, 3, 3), 1 / 3), query_modality=mixed, value_modality="text")
    result = modality(graph, special_query=torch.tensor([[False, False, True]]))
    assert result.query.tolist() == [[[IMAGE, TEXT, SPECIAL]]] and result.value.tolist() == [[[TEXT] * 3]]
    assert modality(AttentionGraph(x, x, torch.full((1, 1, 3, 3), 1 / 3))) is None


def test_classes_of_tokens():
    kinds = {"red": "colour", "circle": "noun", "a": "article"}
    result = classes_of_tokens([["a", "red", "circle"], ["a", "##s", "[PAD]"]], kinds)
    assert result.tolist() == [[0, 1, 2], [0, -1, -1]]
    assert classes_of_tokens([["circle"]], {"circle": "noun"}, names=["x", "noun"]).tolist() == [[1]]


def test_codes():
    y, z = torch.tensor([[1, -1]]), torch.tensor([[0, 1, 2]])
    query, value = Labels(y, z).codes()
    assert query[0, 0].long().tolist() == [[0, 1, 0], [0, 0, 0]] and torch.equal(
        value[0, 0].long(), torch.eye(3).long()
    )
    assert [x.shape[-1] for x in Labels(y, z, shared=False).codes()] == [2, 3]


def test_shared_clusters_find_planted_ones():
    draw = torch.Generator().manual_seed(0)
    corners = 20 * torch.eye(3)
    kinds = torch.randint(0, 3, (2, 12), generator=draw), torch.randint(0, 3, (2, 15), generator=draw)
    x, y = (
        corners[kind][:, None].expand(-1, 2, -1, -1) + torch.randn(2, 2, kind.shape[1], 3, generator=draw)
        for kind in kinds
    )
    graph = Bipartite(torch.rand(2, 2, 12, 15), torch.ones(2, 12, 15, dtype=torch.bool), x, y)
    clusters = SharedClusters(3)
    result = clusters("layer", graph)
    for h in range(2):
        pairs = set()  # one cluster for both sides and both examples
        for kind, cluster in ((kinds[0], result.query), (kinds[1], result.value)):
            pairs |= set(zip(kind.flatten().tolist(), cluster[:, h].flatten().tolist()))
        assert len(pairs) == len({kind for kind, _ in pairs}) == len({cluster for _, cluster in pairs})
    assert result.on(graph).value.shape == (2, 2, 15)
    with pytest.raises(ValueError, match=r"query labels must have shape \(2, 12\) or \(2, 2, 12\)"):
        Labels(*(x[:, [0, 1, 1]] for x in (result.query, result.value))).on(graph)
    moved = Bipartite(graph.weight, graph.visible, x + 1, y)
    assert torch.equal(clusters("layer", moved).query, result.query)  # the fit is kept
    few = Bipartite(graph.weight[:1, :, :1, :1], graph.visible[:1, :1, :1], x[:1, :, :1], y[:1, :, :1])
    with pytest.raises(ValueError, match="the first examples have 2"):
        clusters("other layer", few)
    assert torch.equal(clusters("other layer", graph).query, result.query)  # the error left nothing behind
    for wrong, message in (
        (dict(clusters=1), "at least 2"),
        (dict(points=1), "at most points"),
        (dict(examples=0), "examples must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            SharedClusters(**dict(clusters=2) | wrong)


def test_clusters_are_of_the_first_examples_and_of_no_more_nodes_than_asked(monkeypatch):
    """However examples come in batches; what comes after the fit changes nothing."""
    fitted, fit = [], KMeans.fit
    monkeypatch.setattr(KMeans, "fit", lambda means, x: fitted.append(x) or fit(means, x))
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(5, 1, nodes, 2, generator=draw) for nodes in (4, 3))

    def batch(rows):
        some = len(x[rows])
        return Bipartite(
            torch.ones(some, 1, 4, 3), torch.ones(some, 4, 3, dtype=torch.bool), x[rows], y[rows]
        )

    for size in (1, 2, 5):
        clusters = SharedClusters(2, points=7, examples=3)
        for start in range(0, 5, size):
            clusters.gather("layer", batch(slice(start, start + size)))
        one = clusters("layer", batch(slice(0, 5)))
        clusters.gather("layer", batch(slice(3, 5)))
        assert torch.equal(clusters("layer", batch(slice(0, 5))).query, one.query)
    assert len(fitted) == 3 and fitted[0].shape == (14, 2)
    assert all((other == fitted[0]).all() for other in fitted)
    first = {tuple(node) for node in torch.cat([x[:3], y[:3]], 2).flatten(0, 2).tolist()}
    assert {tuple(node) for node in fitted[0].tolist()} <= first
    assert SharedClusters(7, points=7)("layer", batch(slice(0, 1))).query.unique().numel() == 4


def test_numbers_anew_in_each_example():
    graph = Bipartite.of(random_graph(n=4, m=6, padding=False))
    query = torch.tensor([[900, -1, 7, 900], [3, 3, 5, 4]])
    value = torch.tensor([[7, 7, 30000, -1, 8, 900], [3, 3, 3, 3, 3, 3]])
    result = Labels(query, value).on(graph)
    assert result.query.tolist() == [[[2, -1, 0, 2]], [[0, 0, 2, 1]]]
    assert result.value.tolist() == [[[0, 0, 3, -1, 1, 2]], [[0] * 6]]
    apart = Labels(query, value, shared=False).on(graph)
    assert apart.query.tolist() == [[[1, -1, 0, 1]], [[0, 0, 2, 1]]]
    assert apart.value[0, 0].tolist() == [0, 0, 3, -1, 1, 2]
