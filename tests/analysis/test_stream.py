"""Statistics of streamed graphs, against those of the same graphs with all their weights."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from attngraph import AttentionGraph, AttentionScores
from attngraph import streaming as module
from attngraph.analysis import bipartite
from attngraph.analysis.bipartite import Bipartite, Stream
from attngraph.analysis.heterophily import Heterophily, Settings
from attngraph.analysis.heterophily.measurement import CLOSED_FORM_STATISTICS
from attngraph.analysis.labels import Labels
from attngraph.streaming import Streamed


def pair(n, m, kind, masked, causal=False, own=0.0):
    """A streamed graph and the graph, with rows that see nothing, padding, and a metric."""
    draw = torch.Generator().manual_seed(n)
    b, h, d = 2, 3, 4
    query, key, value = (1.5 * torch.randn(b, h, x, d, generator=draw) for x in (n, m, m))
    query[:, :, : min(n, m)] += own * key[:, :, : min(n, m)]  # each query looks at its own key
    more = dict(triangular=causal, causal=causal)
    if masked:
        more["mask"] = torch.rand(b, 1, n, m, generator=draw) < 0.7
        more["query_mask"] = torch.rand(b, n, generator=draw) < 0.8
    root = torch.randn(h, d, d, generator=draw)
    scores = AttentionScores(query, key, value, metric=root @ root.mT, **more)
    whole = replace(scores.graph(), kind=kind)
    streamed = AttentionGraph(
        query, value, Streamed.of(scores), scores.query_mask, causal=causal, metric=scores.metric, kind=kind
    )
    return streamed, whole


CASES = {
    "self": pair(40, 40, "self", masked=False),
    "causal": pair(50, 50, "self", masked=False, causal=True),
    "padded": pair(45, 45, "self", masked=True, causal=True),
    "cross": pair(20, 60, "cross", masked=True),
    "loops": pair(40, 40, "self", masked=False, own=4.0),  # edges between nodes weigh 1e-8 and less
}


@pytest.mark.parametrize("case", CASES)
def test_statistics_of_a_stream(case, monkeypatch):
    """All that are sums over edges, with their nulls, labels of all heads or of each, and self-loops left
    out of those of labels."""
    monkeypatch.setattr(module, "EDGES", 1000)  # so that there are several strips
    monkeypatch.setattr(bipartite, "EDGES", 1000)
    streamed, whole = CASES[case]
    b, h, n, m, _ = whole.shape
    draw = torch.Generator().manual_seed(0)
    labels = {}
    for name, heads, classes in (("class", 1, 5), ("cluster", h, 3)):
        of = [torch.randint(-1, classes, (b, heads, x), generator=draw) for x in (n, m)]
        labels[name] = Labels(of[0], of[0] if whole.kind == "self" else of[1])
    tables = []
    for graph in (streamed, whole):
        collected = Heterophily(Settings(replicates=4))
        collected.add("layer", graph, labels)
        tables.append(collected.table())
    wanted = tables[1][~tables[1].statistic.isin(CLOSED_FORM_STATISTICS)].reset_index(drop=True)
    assert len(wanted) > 60
    pd.testing.assert_frame_equal(tables[0], wanted, rtol=3e-4, atol=2e-5)


def test_nothing_reads_weights_that_are_not_there():
    streamed, _ = CASES["cross"]
    view = Bipartite.of(streamed)
    assert isinstance(view, Stream) and view.weight.isnan().all()
    with pytest.raises(ValueError, match="the graph is streamed: set bins=0"):
        Heterophily(Settings(bins=5)).add("layer", streamed)
    with pytest.raises(ValueError, match="has self-loops"):
        view.without_self_loops()
