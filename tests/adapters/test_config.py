"""Bad settings end in one clear line before any layer is made."""

import dataclasses
import json

import numpy as np
import pytest

from adapters import APPNP, GCN, GCNII, PGNN, Residual, RotatedQueries, Tempering
from adapters.config import AdapterConfig
from attngraph.errors import UserError

BAD = [
    (dict(gnn="gat"), "unknown gnn 'gat': choose one of appnp, gcn, gcnii, pgnn"),
    (dict(gnn=["gcn"]), "unknown gnn"),
    (dict(gnn=None), "unknown gnn None"),
    (dict(join="add"), "unknown join 'add': choose one of replace, gated, blend"),
    (dict(backend="gpu"), "unknown backend 'gpu': choose one of dense, sparse"),
    (
        dict(positions=("self", "vision")),
        "positions must be one or more of self, cross, ffn, got self, vision",
    ),
    (dict(positions=()), "positions must be one or more of self, cross, ffn, got none"),
    (dict(positions=None), "positions must be one or more of"),
    (dict(positions="everywhere"), "positions must be one or more of self, cross, ffn, got everywhere"),
    (dict(positions=(1, 2)), "positions must be one or more of self, cross, ffn, got 1, 2"),
    (dict(reduction=0), "reduction must be a whole number of at least 1, got 0"),
    (dict(reduction=2.5), "reduction must be a whole number of at least 1, got 2.5"),
    (dict(reduction="8"), "reduction must be a whole number of at least 1, got '8'"),
    (dict(reduction=None), "reduction must be"),
    (dict(reduction=float("nan")), "reduction must be"),
    (dict(reduction=True), "reduction must be a whole number of at least 1, got True"),
    (dict(top_k=True), "top_k must be a whole number of at least 1, got True"),
    (dict(top_k=float("inf")), "top_k must be a whole number"),
    (dict(rescale=1), "rescale must be True or False, got 1"),
    (dict(gnn="rotated", gnn_args={"seed": -1}), r"rotated: seed must lie in \[0, "),
    (dict(gnn="rotated", gnn_args={"seed": 1.5}), "rotated: seed must be a whole number, got 1.5"),
    (dict(shared=1), "shared must be True or False, got 1"),
    (dict(positions=([],)), "positions must be one or more of"),
    (dict(gnn_args={"p": True}), "pgnn: p must be a number, got True"),
    (dict(gnn_args={"mu": False}), "pgnn: mu must be a number, got False"),
    (dict(gnn_args={"steps": True}), "pgnn: steps must be a whole number from 1 to 64, got True"),
    (dict(gnn_args={"learn_p": "no"}), "pgnn: learn_p must be True or False, got 'no'"),
    (dict(gnn="gcn", gnn_args={"normalize": 1}), "gcn: normalize must be True or False, got 1"),
    (dict(gnn="appnp", gnn_args={"degree": []}), "appnp: degree must be one of sum, mean"),
    (dict(top_k=0), "top_k must be a whole number of at least 1, got 0"),
    (dict(top_k=1.5), "top_k must be a whole number of at least 1, got 1.5"),
    (dict(gnn_args=None), "gnn_args must be a dict"),
    (dict(gnn="pgnn", gnn_args={"q": 2}), "pgnn has no argument 'q': it takes p, mu, steps"),
    (dict(gnn="gcn", gnn_args={"steps": 2}), "gcn has no argument 'steps': it takes normalize"),
    (dict(gnn="pgnn", gnn_args={"p": 0.9}), r"pgnn: p must lie in \[1, 8\], got 0.9"),
    (dict(gnn="pgnn", gnn_args={"p": 9}), r"pgnn: p must lie in \[1, 8\], got 9"),
    (
        dict(gnn="pgnn", gnn_args={"p": 1.0}),
        r"a learned p must start inside \(1, 3\), got 1; use learn_p=False",
    ),
    (dict(gnn="pgnn", gnn_args={"p": 3.5}), r"a learned p must start inside \(1, 3\), got 3.5"),
    (dict(gnn="pgnn", gnn_args={"p": float("nan")}), "pgnn: p must lie in"),
    (dict(gnn="pgnn", gnn_args={"p": "1.5"}), "pgnn: p must be a number, got '1.5'"),
    (dict(gnn="pgnn", gnn_args={"mu": -0.1}), r"pgnn: mu must lie in \[0, "),
    (dict(gnn="pgnn", gnn_args={"mu": float("inf")}), "pgnn: mu must lie in"),
    (dict(gnn="pgnn", gnn_args={"mu": 0, "learn_mu": True}), r"pgnn: mu must lie in \(0, "),
    (dict(gnn="pgnn", gnn_args={"steps": 0}), "pgnn: steps must be a whole number from 1 to 64, got 0"),
    (dict(gnn="pgnn", gnn_args={"steps": 65}), "steps must be a whole number"),
    (dict(gnn="appnp", gnn_args={"steps": 1.5}), "appnp: steps must be a whole number from 1 to 64, got 1.5"),
    (dict(gnn="appnp", gnn_args={"steps": "two"}), "appnp: steps must be a whole number"),
    (dict(gnn="appnp", gnn_args={"steps": float("nan")}), "appnp: steps must be a whole number"),
    (dict(gnn="appnp", gnn_args={"alpha": 0}), r"appnp: alpha must lie in \(0, 1\], got 0"),
    (dict(gnn="appnp", gnn_args={"alpha": 1.01}), "appnp: alpha must lie in"),
    (dict(gnn="appnp", gnn_args={"degree": "max"}), "appnp: degree must be one of sum, mean, got 'max'"),
    (dict(gnn="gcnii", gnn_args={"theta": 2}), "gcnii: theta must lie in"),
    (dict(gnn="gcnii", gnn_args={"alpha": -1}), "gcnii: alpha must lie in"),
    (dict(gnn="residual", gnn_args={"alpha": 0}), "residual: alpha must lie in"),
]


@pytest.mark.parametrize("settings, message", BAD, ids=lambda x: str(x) if isinstance(x, dict) else "")
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        AdapterConfig(**settings)
    assert "\n" not in str(caught.value)


def test_good_settings_survive_json():
    config = AdapterConfig("pgnn", {"p": 1.25, "steps": 2}, join="gated", positions=["self", "ffn"], top_k=4)
    assert AdapterConfig(**json.loads(json.dumps(config.to_dict()))).to_dict() == config.to_dict()
    assert AdapterConfig(positions="self").positions == ("self",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.join = "blend"


def test_names_lead_to_classes():
    for name, kind in (
        ("gcn", GCN),
        ("appnp", APPNP),
        ("gcnii", GCNII),
        ("pgnn", PGNN),
        ("residual", Residual),
        ("tempering", Tempering),
        ("rotated", RotatedQueries),
    ):
        scheme = AdapterConfig(name).scheme()
        assert type(scheme) is kind and scheme.name == name
    assert AdapterConfig("placebo").gnn == "rotated"  # as adapters of earlier versions were saved


def test_p_starts_where_it_should_and_stays_in_range():
    for p in (1.01, 1.25, 1.5, 2.9):
        assert PGNN(p=p).p.item() == pytest.approx(p, abs=1e-5)
    scheme = PGNN()
    for logit in (-1e4, 1e4):
        scheme.p_logit.set(logit)
        assert 1 <= scheme.p.item() <= 3
    assert PGNN(mu=10, learn_mu=True).mu.item() == pytest.approx(10, rel=1e-5)
    assert not list(PGNN(p=2, learn_p=False).parameters())


def test_numpys_numbers_become_pythons():
    config = AdapterConfig("appnp", {"steps": np.int64(2), "alpha": np.float64(0.5)})
    assert json.loads(json.dumps(config.to_dict()))["gnn_args"] == {"steps": 2, "alpha": 0.5, "degree": "sum"}
    whole = AdapterConfig(
        "gcn",
        {"normalize": np.bool_(True)},
        reduction=np.int64(4),
        shared=np.bool_(True),
        rescale=np.bool_(True),
    )
    assert json.loads(json.dumps(whole.to_dict()))["reduction"] == 4 and whole.shared is whole.rescale is True


@pytest.mark.parametrize("positions", [5, None])
def test_positions_that_are_no_names(positions):
    with pytest.raises(UserError, match="positions must be one or more of self, cross, ffn"):
        AdapterConfig(positions=positions)
