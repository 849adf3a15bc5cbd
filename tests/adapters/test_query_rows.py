"""Other features at the query nodes: the contract of schemes holds with them too."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from attngraph.adapters import GraphAdapterConfig
from attngraph.adapters.adapter import GraphAdapter
from attngraph.adapters.query_rows import PLACES, _noise, with_query_rows
from attngraph.adapters.scheme import Scheme
from tests.adapters.cases import REFERENCES
from tests.adapters.contract import CHECKS, Case, check_residual_share, random_graph
from tests.pairwise import pairwise

other = pytest.mark.parametrize("rows", ["zero", "noise"])


class WithRows(Scheme):
    """A scheme that gets a graph with other query rows, as an adapter gives it one."""

    def __init__(self, scheme: Scheme, rows: str):
        super().__init__()
        self.inner, self.rows = scheme, rows

    def forward(self, graph, backend="dense"):
        return self.inner(with_query_rows(graph, self.rows), backend)

    def reweight(self, graph, backend="dense"):
        return self.inner.reweight(with_query_rows(graph, self.rows), backend)

    def edge_weights(self, edges):
        return edges.weight


@dataclass(frozen=True)
class RowsCase(Case):
    rows: str = "zero"

    def make(self, dtype=torch.float32):
        return WithRows(super().make(), self.rows).to(dtype)


def by_hand(graph, rows: str):
    """Query by query."""
    query = torch.zeros_like(graph.query)
    if rows == "noise":
        b, h, n, _, d = graph.shape
        noise = np.random.RandomState(0).standard_normal((1024, h, d))
        for i in range(b):
            for k in range(n):
                first = 0 if graph.span is None else int(graph.span[i, k, 0])
                valid = [graph.query_mask is None or bool(graph.query_mask[i, j]) for j in range(n)]
                place = sum(valid[first:k])
                for head in range(h):
                    row = torch.from_numpy(noise[place, head]).to(query)
                    query[i, head, k] = row / row.norm() * graph.query[i, head, k].norm()
    return replace(graph, query=query)


@other
@pytest.mark.parametrize(
    "check", [x for x in CHECKS if x.run is not check_residual_share], ids=lambda x: x.run.__name__
)
def test_the_contract(check, rows, monkeypatch):
    """Of pGNN, whose weights and messages depend on all that stands at a query; against rows put by hand."""
    monkeypatch.setattr("attngraph.backends.chunks.MOST", 3)

    def reference(scheme, graph, output):
        return REFERENCES["pgnn"](scheme.inner, by_hand(graph, rows), output)

    case = RowsCase("pgnn", reference, {"p": 1.25, "mu": 0.5}, rows=rows)
    for settings in pairwise(case=[case], **check.values):
        check.run(**settings)


@pytest.mark.parametrize("rows", ["query", "zero", "noise"])
def test_the_weights_to_be_shown_are_those_of_the_changed_rows(rows):
    config = GraphAdapterConfig(p=1.2, query_rows=rows)
    graph, _ = random_graph()
    adapter = GraphAdapter(config, 16, config.scheme())
    expected = adapter.scheme.reweight(with_query_rows(graph, rows))
    assert torch.equal(adapter.reweighted(graph).weight, expected)
    assert torch.equal(expected, adapter.scheme.reweight(graph)) == (rows == "query")


def test_noise_is_standard_normal_at_the_lengths_of_queries_and_comes_again():
    graph, _ = random_graph(b=1, h=2, n=PLACES + 4, m=3, d=32)
    noise, query = with_query_rows(graph, "noise").query, graph.query
    torch.testing.assert_close(noise.norm(dim=-1), query.norm(dim=-1))
    unit = noise / noise.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(unit[:, :, PLACES:], unit[:, :, :4])
    assert not with_query_rows(replace(graph, rotated=True), "noise").rotated
    flat = unit[0, :, :PLACES].flatten(0, 1)  # no direction, no pair of places, and not the query, stands out
    assert flat.mean(0).abs().max() < 5 / (32 * len(flat)) ** 0.5
    cosines = flat @ flat.T - torch.eye(len(flat))
    assert abs(float(cosines.std()) - 32**-0.5) < 0.01
    toward = (unit * query / query.norm(dim=-1, keepdim=True)).sum(-1)
    assert abs(float(toward.mean())) < 5 / (32 * toward.numel()) ** 0.5


def test_the_table_of_noise_stays_on_the_device_and_serves_training_after_inference():
    graph, _ = random_graph(b=1, h=3, n=4, m=3, d=7)
    _noise.cache_clear()
    with torch.inference_mode():
        made = with_query_rows(graph, "noise").query
    torch.testing.assert_close(made.clone(), by_hand(graph, "noise").query)
    query = graph.query.clone().requires_grad_()
    with_query_rows(replace(graph, query=query), "noise").query.sum().backward()
    assert query.grad is not None and _noise.cache_info()[:2] == (1, 1)  # hits, misses
    half = with_query_rows(replace(graph, query=graph.query.half()), "noise").query
    assert half.dtype == torch.half and _noise.cache_info().misses == 2, "a dtype has a table of its own"
