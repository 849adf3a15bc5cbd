"""Other features at the query nodes: the contract of schemes holds with them too."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from adapters import GraphAdapterConfig
from adapters.config import AdapterConfig
from adapters.query_rows import PLACES, QUERY_ROWS, _noise, with_query_rows
from adapters.scheme import Scheme
from attngraph.errors import UserError
from attngraph.scores import AttentionScores
from tests.adapters import contract
from tests.adapters.cases import REFERENCES
from tests.adapters.contract import GRAPHS, Case, random_graph
from tests.adapters.peft.helpers import close, differ, put, run
from tests.adapters.peft_models import FAMILIES

ARGUMENTS = {
    "gcn": {},
    "appnp": {"alpha": 0.3, "steps": 2},
    "gcnii": {"alpha": 0.3, "theta": 1.5},
    "pgnn": {"p": 1.25, "mu": 0.5, "steps": 2},
    "residual": {"alpha": 0.3},
    "tempering": {"p": 2.5, "mu": 0.5},
    "rotated": {"p": 1.25, "mu": 0.5},
}
OTHER = [rows for rows in QUERY_ROWS if rows != "query"]


class WithRows(Scheme):
    """A scheme that gets a graph with other query rows, as an adapter gives it one."""

    def __init__(self, scheme: Scheme, rows: str):
        super().__init__()
        self.inner, self.rows = scheme, rows

    def forward(self, graph, backend="dense"):
        return self.inner(with_query_rows(graph, self.rows), backend)

    def reweight(self, graph, backend="dense"):
        return self.inner.reweight(with_query_rows(graph, self.rows), backend)


@dataclass(frozen=True)
class RowsCase(Case):
    rows: str = "zero"

    def make(self, dtype=torch.float32):
        return WithRows(super().make(), self.rows).to(dtype)


def case_of(name: str, rows: str) -> RowsCase:
    def reference(scheme, graph, output):
        return REFERENCES[name](scheme.inner, by_hand(graph, rows), output)

    return RowsCase(name, reference, ARGUMENTS[name], rows=rows)


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


every = pytest.mark.parametrize("name", ARGUMENTS)
other = pytest.mark.parametrize("rows", OTHER)


@every
@other
@pytest.mark.parametrize("kind", GRAPHS)
def test_equals_the_formula_as_loops(name, rows, kind):
    contract.check_brute_force(case_of(name, rows), kind, 0)


@every
@other
def test_the_contract(name, rows):
    case = case_of(name, rows)
    for causal in (False, True):
        contract.check_padding(case, causal)
    for triangular, prefix in ((False, 0), (True, 0), (True, 2)):
        contract.check_no_future(case, triangular, prefix)
        contract.check_past_degree(case, triangular, prefix)
    contract.check_masked_edges(case, "decoder self, padded")
    contract.check_autocast(case)
    for dtype in (torch.bfloat16, torch.float16):
        contract.check_close_in_half(case, dtype)
        contract.check_finite(case, dtype)
    contract.check_finite(case, torch.float32)


@pytest.mark.parametrize("kind", ["encoder", "decoder self, padded"])
@other
def test_only_gcn_has_no_use_for_query_rows(rows, kind):
    graph, _ = random_graph(**GRAPHS[kind])
    changed = with_query_rows(graph, rows)
    assert torch.equal(changed.weight, graph.weight) and torch.equal(changed.value, graph.value)
    assert with_query_rows(graph, "query") is graph
    for name in ARGUMENTS:
        scheme = Case(name, REFERENCES[name], ARGUMENTS[name]).make(torch.float64)
        assert torch.equal(scheme(changed), scheme(graph)) == (name == "gcn"), name


def test_noise_is_standard_normal_at_the_lengths_of_queries_and_comes_again():
    graph, _ = random_graph(b=1, h=2, n=PLACES + 4, m=3, d=32)
    noise, query = with_query_rows(graph, "noise").query, graph.query
    torch.testing.assert_close(noise.norm(dim=-1), query.norm(dim=-1))
    unit = noise / noise.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(unit[:, :, PLACES:], unit[:, :, :4])
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
    want = by_hand(graph, "noise").query
    torch.testing.assert_close(made.clone(), want)
    query = graph.query.clone().requires_grad_()
    with_query_rows(replace(graph, query=query), "noise").query.sum().backward()
    assert query.grad is not None and _noise.cache_info()[:2] == (1, 1)  # hits, misses
    half = with_query_rows(replace(graph, query=graph.query.half()), "noise").query
    assert half.dtype == torch.half and _noise.cache_info().misses == 2, "a dtype has a table of its own"
    model = put("blip", "pgnn", query_rows="noise")
    names = list(model.state_dict())
    run(model, FAMILIES["blip"].batch())
    assert list(model.state_dict()) == names


@other
def test_scores_get_the_rows_of_their_graph(rows):
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, k, 4, generator=draw) for k in (5, 6, 6))
    mask = torch.tensor([[True] * 5, [False] * 2 + [True] * 3])
    scores = AttentionScores(query, key, value, query_mask=mask, causal=True)
    changed = with_query_rows(scores, rows)
    close(changed.graph().weight, scores.graph().weight)
    close(changed.graph().query, with_query_rows(scores.graph(), rows).query)


@other
@pytest.mark.parametrize("gnn", ["pgnn", "gcnii"])
@pytest.mark.parametrize("family", ["blip", "llama", "gpt2"])
def test_training_computes_what_evaluation_does(family, gnn, rows):
    """There the scheme starts from scores, in a function of its own."""
    model, plain = put(family, gnn, query_rows=rows), put(family, gnn)
    batch = FAMILIES[family].batch()
    want = run(model, batch)
    assert differ(want, run(plain, batch))
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    close(run(model, batch), want, 1e-4)


def test_the_noise_of_packed_texts_is_that_of_each_alone():
    ids = torch.randint(3, 40, (1, 9), generator=torch.Generator().manual_seed(1))
    model = put("llama", "pgnn", query_rows="noise", join="replace", positions=("self",))
    places = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    alone = [run(model, {"input_ids": part}) for part in ids.split([4, 5], 1)]
    close(run(model, {"input_ids": ids, "position_ids": places}), torch.cat(alone, 1))


def test_exporting_leaves_no_table_behind():
    class Net(nn.Module):
        def forward(self, query, key, value):
            return with_query_rows(AttentionScores(query, key, value).graph(), "noise").query

    inputs = tuple(torch.randn(3, 1, 2, 4, 3))
    _noise.cache_clear()
    exported = torch.export.export(Net(), inputs, strict=False).module()
    assert type(Net()(*inputs)) is torch.Tensor
    close(exported(*inputs), Net()(*inputs))


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="unknown query_rows 'nose': choose one of query, zero, noise"):
        AdapterConfig(query_rows="nose")
    with pytest.raises(UserError, match="unknown query_rows 3"):
        GraphAdapterConfig(query_rows=3)
