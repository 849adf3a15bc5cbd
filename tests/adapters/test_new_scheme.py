"""Adding a scheme takes one file: ``example_scheme.py`` is imported at run time, keeps the contract, and PEFT
chooses it by name, trains, saves and loads it like any other."""

import importlib
import math
import sys
from dataclasses import replace

import pytest
import torch
from peft import get_peft_model

from attngraph.adapters import SCHEMES, GraphAdapterConfig, register
from attngraph.adapters.conv import SchemeConv
from attngraph.adapters.peft import learned_scalars, load_adapter, optimizer_groups
from attngraph.errors import UserError
from tests.adapters import brute_force
from tests.adapters.contract import CHECKS, Case, random_graph
from tests.adapters.peft_models import FAMILIES
from tests.pairwise import pairwise

MODULE = "tests.adapters.example_scheme"


@pytest.fixture(scope="module", autouse=True)
def dropped_in():
    """Import the file, which registers the scheme; afterwards forget it."""
    importlib.import_module(MODULE)
    yield
    del SCHEMES["fagcn"], sys.modules[MODULE]


def reference(scheme, graph, output):
    def update(s: brute_force.Square, x, i):
        total = scheme.epsilon * x[i]
        for j, w in enumerate(s.weight[i]):
            if w > 0:
                cosine = x[i] @ x[j] / x[i].norm() / x[j].norm()
                gate = math.tanh(float(scheme.gamma() * cosine))
                total = total + gate * w / math.sqrt(s.degrees[i] * s.degrees[j]) * x[j]
        return total

    return brute_force.per_head(graph, output, update)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.run.__name__)
def test_it_keeps_the_contract(check, monkeypatch):
    monkeypatch.setattr("attngraph.backends.chunks.MOST", 3)
    case = Case("fagcn", reference, {"epsilon": 0.4})
    for settings in pairwise(case=[case], **check.values):
        check.run(**settings)


def test_it_is_a_layer_of_pyg():
    """What it asks of edges does not need a graph of attention."""
    graph, scheme = replace(random_graph(0)[0], metric=None), SCHEMES["fagcn"](epsilon=0.4).double()
    data = graph.to_data()
    got = SchemeConv(scheme)(data.x, data.edge_index, data.edge_weight)[~data.is_value]
    torch.testing.assert_close(got, scheme(graph).flatten(0, 2))


def test_it_goes_into_models_by_name(tmp_path):
    torch.manual_seed(0)
    settings = dict(gnn_args={"epsilon": 0.2}, degree="mean", reduction=4, init_weights=False)
    config = GraphAdapterConfig(gnn="fagcn", **settings)
    model, batch = get_peft_model(FAMILIES["t5"].make(), config), FAMILIES["t5"].batch()
    optimizer = torch.optim.AdamW(optimizer_groups(model, 1e-2, 0.05))
    model.train()(**batch).logits.square().mean().backward()
    optimizer.step()
    gammas = {name: value for name, value in learned_scalars(model).items() if name.endswith(".gamma")}
    assert len(gammas) >= 2 and all(value != 1 for value in gammas.values())
    with torch.no_grad():
        want = model.eval()(**batch).logits
        with model.disable_adapter():
            assert not torch.allclose(model(**batch).logits, want, atol=0.05)
        model.save_pretrained(tmp_path)
        loaded = load_adapter(FAMILIES["t5"].make(), tmp_path).eval()
        assert loaded.peft_config["default"].scheme_args() == {"epsilon": 0.2, "degree": "mean"}
        assert torch.equal(loaded(**batch).logits, want)
    with pytest.raises(UserError, match="fagcn: epsilon must be in"):
        GraphAdapterConfig(gnn="fagcn", gnn_args={"epsilon": 2})


def test_a_name_is_given_once():
    for other in (type("Other", (), {}), type("GCN", (), {"__module__": "mine"})):
        with pytest.raises(ValueError, match="'gcn' is taken by attngraph.adapters.gcn.GCN"):
            register("gcn")(other)
