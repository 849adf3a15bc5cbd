import torch

from attngraph.analysis.bipartite import Bipartite
from attngraph.analysis.nulls import Draws, permuted, shuffle, uniform
from tests.analysis.example_graphs import random_graph


def test_uniform_keeps_mask_and_query_degrees():
    graph = Bipartite.of(random_graph(kind="self", causal=True, n=6, softmax=True)).without_self_loops()
    flat = uniform(graph)
    assert torch.allclose(flat.query_degree, graph.query_degree)
    assert (flat.weight[~graph.visible[:, None].expand_as(flat.weight)] == 0).all()
    for row, seen in zip(
        flat.weight.flatten(0, 2), graph.visible[:, None].expand_as(flat.weight).flatten(0, 2)
    ):
        assert row[seen].unique().numel() <= 1


def test_permuted_keeps_degrees_and_deals_features_among_visible_values():
    graph = Bipartite.of(random_graph(b=3))
    dealt = permuted(graph, Draws(1))
    assert dealt.weight is graph.weight and torch.equal(dealt.value_degree, graph.value_degree)
    assert torch.equal(dealt.value[-1, :, -2:], graph.value[-1, :, -2:])  # padding stays
    assert not torch.equal(dealt.value, graph.value)
    assert torch.allclose(dealt.value.sum(2), graph.value.sum(2))
    for h in range(1, 3):  # whole nodes move: all heads the same way
        first = [
            (graph.value[0, 0, j] == dealt.value[0, 0, k]).all().item() for j in range(7) for k in range(7)
        ]
        other = [
            (graph.value[0, h, j] == dealt.value[0, h, k]).all().item() for j in range(7) for k in range(7)
        ]
        assert first == other


def test_permuted_self_attention_moves_whole_nodes():
    graph = Bipartite.of(random_graph(kind="self", causal=True))
    dealt = permuted(graph, Draws(1))
    assert not torch.equal(dealt.query, graph.query)
    before, after = (torch.cat([x.query[0, 0], x.value[0, 0]], -1).tolist() for x in (graph, dealt))
    assert sorted(before) == sorted(after)


def test_shuffle_is_uniform():
    mask = torch.tensor([True, False, True, True]).expand(6000, 4)
    order = shuffle(mask[:, None], Draws(0))[:, 0]
    kinds, counts = order.unique(dim=0, return_counts=True)
    assert len(kinds) == 6 and (kinds[:, 1] == 1).all() and (counts - 1000).abs().max() < 150


def test_batches_and_padding_do_not_matter():
    """An example's order is its own, wherever its nodes stand in the row and with whom it is measured."""
    mask = torch.tensor([[True] * 6, [True] * 5 + [False]])[:, None]
    first, second = (shuffle(mask, draws) for draws in [Draws(3, "layer")] for _ in range(2))
    assert not torch.equal(first, second)
    alone = Draws(3, "layer", first=1)
    left = torch.tensor([[[False] * 4 + [True] * 5]])
    for whole in (first, second):
        assert (shuffle(left, alone)[0, 0, 4:] - 4).tolist() == whole[1, 0, :5].tolist()
    assert not torch.equal(shuffle(mask, Draws(3, "other")), first)  # layers differ
    heads = shuffle(mask.expand(2, 3, 6), Draws(3, "layer"))
    assert torch.equal(heads, first.expand(2, 3, 6))
