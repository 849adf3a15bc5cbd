"""Adding a scheme takes one file: here ``example_scheme.py`` is dropped in, and keeps the contract, runs in BLIP, is
chosen by name and saved like any other."""

import importlib
import math
import sys

import pytest
import torch

from adapters import SCHEMES, register
from adapters.blip import attach
from adapters.config import AdapterConfig
from attngraph.errors import UserError
from tests.adapters import brute_force, contract
from tests.adapters.contract import GRAPHS, Case

MODULE = "tests.adapters.example_scheme"


@pytest.fixture(autouse=True)
def tiny_tiles(monkeypatch):
    monkeypatch.setattr("attngraph.backends.tiled.TILE", 48)


@pytest.fixture(scope="module", autouse=True)
def dropped_in():
    """The file is imported (that registers the scheme) and forgotten afterwards."""
    importlib.import_module(MODULE)
    yield
    del SCHEMES["fagcn"], sys.modules[MODULE]


def reference(scheme, graph, output):
    def one(x, square, n, scale, only=None):
        d = [sum(row) for row in square]
        rows = []
        for i in range(n):
            total = scheme.epsilon * x[i]
            for j in range(len(x)):
                if square[i][j] > 0:
                    gate = math.tanh(float(x[i] @ x[j] / x[i].norm() / x[j].norm()))
                    total = total + gate * square[i][j] / math.sqrt(d[i] * d[j]) * x[j]
            rows.append(total)
        return rows

    return brute_force.per_head(graph, output, one)


CASE = Case("fagcn", reference, {"epsilon": 0.4})


@pytest.mark.parametrize("kind", GRAPHS)
def test_contract_on_every_graph(kind):
    contract.check_brute_force(CASE, kind, seed=0)
    contract.check_dense_equals(CASE, kind, 0, "sparse")
    contract.check_dense_equals(CASE, kind, 0, "tiled")
    contract.check_masked_edges(CASE, kind)


@pytest.mark.parametrize("causal", [False, True])
def test_contract_for_decoders(causal):
    contract.check_padding(CASE, causal)
    contract.check_gradients(CASE, "decoder cross" if causal else "encoder", "dense")
    contract.check_no_future(CASE, triangular=causal)
    contract.check_past_degree(CASE, triangular=causal)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_contract_finite(dtype):
    contract.check_finite(CASE, dtype)
    contract.check_autocast(CASE)


@pytest.mark.parametrize("join", ["replace", "gated", "blend"])
def test_it_runs_in_blip_by_name(join, make_decoder, words, image_states, tmp_path):
    model = make_decoder()
    adapters = attach(model, AdapterConfig("fagcn", {"epsilon": 0.2}, join=join))
    model(words(), encoder_hidden_states=image_states()).logits.sum().backward()
    assert all(p.grad is not None for p in adapters.parameters())
    adapters.save(tmp_path / "a.safetensors")
    adapters.load(tmp_path / "a.safetensors")


def test_its_arguments_are_checked_like_any_others():
    with pytest.raises(UserError, match="fagcn: epsilon must lie in"):
        AdapterConfig("fagcn", {"epsilon": 2})


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="'gcn' is taken by adapters.gcn.GCN"):
        register("gcn")(type("Other", (), {}))
    namesake = type("GCN", (), {"__module__": "mine"})
    with pytest.raises(ValueError, match="is taken by adapters.gcn.GCN"):
        register("gcn")(namesake)
