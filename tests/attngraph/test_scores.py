"""Scores before they are weights: masks, degrees, and the graph they become."""

from dataclasses import replace

import pytest
import torch

from attngraph import AttentionScores
from attngraph.backends.chunks import in_chunks
from tests.attngraph.scores_cases import DROPPED, KINDS, random_scores

WHOLE = dict(dtype=torch.long)


def check_degrees(scores):
    graph = scores.graph()
    torch.testing.assert_close(scores.query_degree(), graph.query_degree())
    assert scores.degree_scale("sum") is None
    mean = graph.value_degree("sum") * scores.degree_scale("mean")
    want = graph.value_degree("mean")
    torch.testing.assert_close(mean.expand_as(want), want)


@pytest.mark.parametrize("kind", KINDS)
def test_graph_is_the_softmax_where_edges_are_visible(kind, monkeypatch):
    """Also in chunks, each of which has its part of the mask."""
    monkeypatch.setattr("attngraph.backends.chunks.MOST", 3)
    scores = random_scores(**KINDS[kind])
    b, h, n, m, d = scores.shape
    seen = torch.ones(b, n, m, dtype=torch.bool)
    added = torch.zeros(b, 1, n, m, dtype=torch.float64)
    if scores.mask is not None and scores.mask.dtype == torch.bool:
        seen &= scores.mask[:, 0]
    elif scores.mask is not None:
        seen &= (scores.mask > -1e9)[:, 0]
        added = added + scores.mask
    if scores.query_mask is not None:
        seen &= scores.query_mask[:, :, None]
    if scores.triangular:
        seen &= torch.ones(n, m, dtype=torch.bool).tril()
    logits = scores.query @ scores.key.transpose(-1, -2) / d**0.5 + added
    want = logits.masked_fill(~seen[:, None], -torch.inf).softmax(-1).nan_to_num(0)
    torch.testing.assert_close(scores.graph().weight, want)
    assert (scores.graph().weight.masked_select(~seen[:, None]) == 0).all()
    messages, _ = in_chunks(lambda edges: edges.to_queries(edges.weight, edges.value), scores)
    torch.testing.assert_close(messages, want @ scores.value)
    check_degrees(scores)


@pytest.mark.parametrize("kind", DROPPED)
def test_graph_under_dropout_is_what_dropout_leaves(kind):
    scores = random_scores(**DROPPED[kind])
    whole = replace(scores, kept=None, dropout=0.0).graph().weight
    want = torch.where(scores.kept, whole / 0.7, torch.zeros_like(whole))
    torch.testing.assert_close(scores.graph().weight, want)
    check_degrees(scores)


@pytest.mark.parametrize("hides", [-1e4, -1e9, -torch.inf])
def test_what_hides_an_edge_from_attention_hides_it_in_degrees(hides):
    told = random_scores(bool_mask=True)
    told = replace(told, mask=told.mask | ~told.mask.any(-1, keepdim=True))
    added = replace(told, mask=torch.zeros(told.mask.shape).masked_fill(~told.mask, hides))
    torch.testing.assert_close(added.degree_scale("mean"), told.degree_scale("mean"))
    torch.testing.assert_close(added.graph().value_degree("mean"), told.graph().value_degree("mean"))


@pytest.mark.parametrize("kind", ["decoder self", "decoder, cached and rotated"])
def test_features_are_the_queries_unless_they_are_told(kind):
    scores = random_scores(**KINDS[kind])
    assert scores.graph().query is scores.node
    assert scores.node is (scores.feature if "rotated" in kind else scores.query)
    assert random_scores(**KINDS[kind], dtype=torch.bfloat16).wide().node.dtype == torch.float32


def test_tiles_of_the_mask_make_up_the_mask():
    """Of one that has a row, a column or all."""
    kinds = ("decoder self, padded", "encoder, bool mask")
    cases = [random_scores(n=6, **KINDS[kind]) for kind in kinds]
    for scores in (*cases, replace(cases[1], mask=cases[1].mask[..., :1])):
        whole = scores.visible().expand(2, 1, *scores.shape[2:4])
        for rows in (slice(0, 2), slice(2, 6)):
            for columns in (slice(0, 3), slice(3, scores.shape[3])):
                tile = scores.visible(rows, columns)
                assert torch.equal(whole[:, :, rows, columns], tile.expand_as(whole[:, :, rows, columns]))


def test_half_precision_weights_are_computed_in_single():
    scores = random_scores(dtype=torch.bfloat16, m=40)
    wide = AttentionScores(scores.query.float(), scores.key.float(), scores.value.float())
    assert scores.graph().weight.dtype == torch.bfloat16
    torch.testing.assert_close(scores.graph().weight, wide.graph().weight.bfloat16(), rtol=0, atol=0)


def test_bad_input_is_named():
    good = dict(query=torch.zeros(1, 1, 2, 2), key=torch.zeros(1, 1, 4, 2), value=torch.zeros(1, 1, 4, 2))
    for changes, message in (
        (dict(key=torch.zeros(1, 1, 3, 2)), "key must have shape"),
        (dict(value=torch.zeros(1, 1, 4, 3)), "value must have shape"),
        (dict(mask=torch.zeros(1, 1, 2, 5)), "mask must be broadcastable to"),
        (dict(mask=torch.zeros(4, requires_grad=True)), "learned biases"),
        (dict(query=torch.zeros(2, 2)), "query must have shape"),
        (dict(feature=torch.zeros(1, 1, 4, 2)), "feature must have shape"),
        (dict(metric=torch.zeros(2, 2)), "metric must have shape"),
        (dict(query_mask=torch.ones(1, 9, dtype=torch.bool)), "query_mask must have shape"),
        (dict(kept=torch.ones(1, 1, 2, 3, dtype=torch.bool)), "kept must have shape"),
        (dict(kept=torch.ones(1, 1, 2, 4)), r"kept must be a bool tensor \(True = kept\)"),
        (dict(kept=torch.ones(1, 1, 2, 4, dtype=torch.bool), dropout=1.0), r"dropout must be in \[0, 1\)"),
        (dict(dropout=0.1), "dropout needs kept="),
        (
            dict(mask=torch.ones(2, 4, **WHOLE)),
            "mask must be bool .True = visible. or floating-point numbers",
        ),
        (dict(query=torch.ones(1, 1, 2, 0)), "query must have at least one feature"),
        (dict(key=torch.ones(1, 1, 4, 2, **WHOLE)), "key must hold floating-point numbers, got torch.int64"),
    ):
        with pytest.raises(ValueError, match=message):
            AttentionScores(**good | changes)


def test_what_may_hide_an_edge():
    plain, valid = random_scores(), torch.tensor([[True] * 4 + [False]] * 2)
    assert not plain.masked and random_scores(causal=True, triangular=True).masked
    assert replace(plain, mask=torch.zeros(7)).masked
    padded = replace(plain, query_mask=valid)
    assert padded.masked and (padded.graph().weight[:, :, 4] == 0).all()
    assert torch.equal(padded.without_query_mask().graph().weight, plain.graph().weight)
