"""Every scheme keeps the contract. A new scheme adds its rows to ``CASES``."""

import pytest
import torch

from adapters import SCHEMES
from tests.adapters import brute_force, contract
from tests.adapters.contract import GRAPHS, Case

CASES = [
    Case("gcn", brute_force.gcn),
    Case("gcn", brute_force.gcn, {"normalize": True}),
    *(
        Case("appnp", brute_force.pagerank, args)
        for args in (
            {},
            {"alpha": 0.3, "steps": 2},
            {"alpha": 0.2, "steps": 3, "degree": "mean"},
            {"alpha": 1.0},
        )
    ),
    *(
        Case("gcnii", brute_force.pagerank, args)
        for args in ({}, {"alpha": 0.3, "theta": 1.5, "steps": 2}, {"steps": 3, "degree": "mean"})
    ),
    *(
        Case("pgnn", brute_force.pgnn, args)
        for args in (
            {},
            {"p": 1.25, "mu": 10.0, "steps": 2},
            {"p": 2.5, "mu": 0.0, "steps": 3},
            {"p": 1.75, "degree": "mean", "steps": 2},
            {"p": 1.5, "mu": 0.1, "learn_mu": True},
            {"p": 1.0, "learn_p": False, "steps": 3},
            {"p": 1.0, "mu": 0.0, "learn_p": False, "degree": "mean"},
            {"p": 2.0, "mu": 0.1, "learn_p": False, "steps": 2},
            {"p": 2.0, "mu": 0.0, "learn_p": False, "degree": "mean"},
            {"p": 3.0, "mu": 10.0, "learn_p": False, "steps": 2},
            {"p": 3.0, "mu": 0.0, "learn_p": False},
        )
    ),
    Case("residual", brute_force.residual, {"alpha": 0.25}),
]
CAUSAL = [kind for kind, settings in GRAPHS.items() if settings.get("causal")]


@pytest.fixture
def tiny_tiles(monkeypatch):
    """The graphs here are small: tiles of 3 x 4 edges (with 4 heads of all examples), so that there are several."""
    monkeypatch.setattr("attngraph.backends.tiled.TILE", 48)


every_case = pytest.mark.parametrize("case", CASES, ids=str)
several_tiles = pytest.mark.usefixtures("tiny_tiles")
every_graph = pytest.mark.parametrize("kind", GRAPHS)


def test_every_scheme_has_a_row():
    ours = {name for name, scheme in SCHEMES.items() if scheme.__module__.startswith("adapters.")}
    assert ours == {case.name for case in CASES}


@several_tiles
@every_case
@every_graph
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_formula_as_loops(case, kind, seed):
    contract.check_brute_force(case, kind, seed)


@several_tiles
@every_case
@every_graph
@pytest.mark.parametrize("backend", ["sparse", "tiled"])
def test_dense_equals(case, kind, backend):
    contract.check_dense_equals(case, kind, 2, backend)


@every_case
@pytest.mark.parametrize("kind", ["encoder", "decoder cross", "decoder self, padded"])
@pytest.mark.parametrize("backend", ["dense", "sparse"])
def test_gradients(case, kind, backend):
    contract.check_gradients(case, kind, backend)


@every_case
@every_graph
def test_masked_edges_weigh_nothing(case, kind):
    contract.check_masked_edges(case, kind)


@several_tiles
@every_case
@pytest.mark.parametrize("causal", [False, True])
def test_padding_changes_nothing(case, causal):
    contract.check_padding(case, causal)


@several_tiles
@every_case
@pytest.mark.parametrize("triangular", [False, True], ids=["cross", "self"])
def test_later_queries_do_not_leak(case, triangular):
    contract.check_no_future(case, triangular)


@several_tiles
@every_case
@pytest.mark.parametrize("triangular", [False, True], ids=["cross", "self"])
def test_queries_in_chunks(case, triangular):
    contract.check_past_degree(case, triangular)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_finite_on_awkward_graphs(case, dtype):
    contract.check_finite(case, dtype)


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(case, dtype):
    contract.check_close_in_half(case, dtype)


@every_case
def test_autocast(case):
    contract.check_autocast(case)
