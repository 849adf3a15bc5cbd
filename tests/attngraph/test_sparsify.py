"""Which edges are kept, against enumeration by hand."""

import itertools

import pytest
import torch

from attngraph import AttentionGraph
from attngraph.adapters import APPNP
from attngraph.sparsify import keep


def softmax_rows(rows=40, m=6, seed=0):
    return (2 * torch.randn(rows, m, generator=torch.Generator().manual_seed(seed))).softmax(-1)


def test_top_k():
    weight = softmax_rows()
    for k in (1, 3, 6, 9):
        for row, kept in zip(weight, keep(weight, top_k=k)):
            assert int(kept.sum()) == min(k, 6)
            assert k >= 6 or row[kept].min() >= row[~kept].max()


def test_ties_keep_the_first_and_zeros_are_never_edges():
    weight = torch.tensor([[0.2, 0.2, 0.2, 0.4], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert keep(weight, top_k=2).tolist() == [
        [True, False, False, True],
        [False, False, True, False],
        [False] * 4,
    ]
    assert keep(weight, mass=0.6)[0].tolist() == [True, False, False, True]
    assert keep(weight, mass=1.0).tolist() == [[True] * 4, [False, False, True, False], [False] * 4]
    assert keep(weight, threshold=0.0).tolist() == [[True] * 4, [False, False, True, False], [False] * 4]
    assert keep(weight, threshold=0.2)[0].tolist() == [True] * 4
    assert keep(weight, threshold=0.3)[0].tolist() == [False, False, False, True]


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.9, 0.99])
def test_mass_is_the_smallest_set_that_holds_it(mass):
    weight = softmax_rows().double()
    for row, kept in zip(weight, keep(weight, mass=mass)):
        total = float(row.sum())
        assert float(row[kept].sum()) >= mass * total
        size = int(kept.sum())
        for smaller in itertools.combinations(range(len(row)), size - 1):
            assert float(row[list(smaller)].sum()) < mass * total
        assert kept.all() or row[kept].min() >= row[~kept].max()


def test_mass_is_a_share_of_the_querys_own_total():
    weight = softmax_rows()
    assert torch.equal(keep(weight * 0.01, mass=0.7), keep(weight, mass=0.7))
    weight = torch.tensor([[1.0, 1e-20, 1e-30, 0.0], [0.3, 0.3, 0.3, 0.1]])
    assert keep(weight, mass=1.0).tolist() == [[True, True, True, False], [True] * 4]  # every edge


def test_bad_rules():
    for rule, message in (
        (dict(), "exactly one of top_k, threshold, mass; got none"),
        (dict(top_k=2, mass=0.5), "exactly one of .* got top_k, mass"),
        (dict(top_k=0), "top_k must be an integer of at least 1, got 0"),
        (dict(threshold=-0.1), "threshold must be at least 0, got -0.1"),
        (dict(mass=0), r"mass must be in \(0, 1\], got 0"),
        (dict(mass=1.1), "mass must be in"),
        (dict(mass=float("nan")), "mass must be in"),
        (dict(threshold=float("nan")), "threshold must be"),
        (dict(top_k=1.5), "integer of at least 1, got 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            keep(softmax_rows(), **rule)


@pytest.mark.parametrize("rule", [dict(top_k=2), dict(threshold=0.2), dict(mass=0.6)], ids=str)
def test_weights_are_not_renormalised_and_degrees_come_from_the_kept_edges(rule):
    draw = torch.Generator().manual_seed(1)
    query, value = torch.randn(2, 2, 4, 3, generator=draw), torch.randn(2, 2, 5, 3, generator=draw)
    weight = torch.randn(2, 2, 4, 5, generator=draw).softmax(-1)
    mask = torch.ones(2, 4, dtype=torch.bool)
    mask[0, 3] = False
    for causal in (False, True):
        graph = AttentionGraph(query, value, weight, query_mask=mask, causal=causal)
        thin = graph.sparsify(**rule)
        kept = keep(graph.weight, **rule)
        assert torch.equal(thin.weight, graph.weight * kept) and 0 < kept.sum() < (graph.weight > 0).sum()
        torch.testing.assert_close(thin.query_degree()[..., 0], (graph.weight * kept).sum(-1))
        columns = (graph.weight * kept).cumsum(-2) if causal else (graph.weight * kept).sum(-2, keepdim=True)
        torch.testing.assert_close(thin.value_degree(), columns)
        assert thin.causal == causal and torch.equal(thin.query_mask, mask)
        for backend in ("dense", "sparse"):
            s = APPNP().reweight(thin, backend)
            assert ((s > 0) == kept).all()
        assert int(thin.to_data().edge_index.shape[1]) == 2 * int(kept.sum())


def test_a_graph_with_past_degrees_is_not_sparsified_alone():
    full = torch.rand(1, 1, 2, 3)
    x = torch.rand(1, 1, 2, 4)
    past = AttentionGraph(x, torch.rand(1, 1, 3, 4), full, causal=True).degree_after()
    graph = AttentionGraph(x, torch.rand(1, 1, 3, 4), full, causal=True, past_degree=past)
    with pytest.raises(ValueError, match="read the model without a cache"):
        graph.sparsify(top_k=1)
