"""Settings: bad ones end in one clear line before any layer is made; good ones come back after saving."""

import inspect
import json

import numpy as np
import pytest
from peft import PeftConfig

from attngraph.adapters import PGNN, SCHEMES, GraphAdapterConfig
from attngraph.adapters.config import SCHEME_ARGS
from attngraph.errors import UserError

BAD = [
    (dict(gnn="gat"), "unknown gnn 'gat': choose one of appnp, gcn, gcnii, pgnn"),
    (dict(join=["gated"]), "unknown join .* choose one of replace, gated, blend"),
    (dict(query_rows=3), "unknown query_rows 3: choose one of query, zero, noise"),
    (dict(positions=("self", "vision")), "positions must be one or more of self, cross, ffn, got self, vis"),
    (dict(positions=()), "positions must be one or more of self, cross, ffn, got none"),
    (dict(reduction=0), "reduction must be an integer of at least 1, got 0"),
    (dict(reduction=None), "reduction must be an integer of at least 1, got None"),
    (dict(top_k=True), "top_k must be an integer of at least 1, got True"),
    (dict(shared="yes"), "shared must be True or False, got 'yes'"),
    (dict(gnn_args=None), "gnn_args must be a dict"),
    (dict(gnn_args={"q": 2}), "pgnn has no argument 'q': it takes p, mu, steps"),
    (dict(gnn="gcn", gnn_args={"normalize": 1}), "gcn: normalize must be True or False, got 1"),
    (dict(gnn_args={"p": True}), "pgnn: p must be a number, got True"),
    (dict(gnn_args={"p": 0.9}), r"pgnn: p must be in \[1, 8\], got 0.9"),
    (dict(gnn_args={"p": 8.1}), r"pgnn: p must be in \[1, 8\], got 8.1"),
    (dict(gnn_args={"p": float("nan")}), "pgnn: p must be in"),
    (dict(gnn_args={"p": 1.0}), r"learned p must start inside \(1, 3\), got 1; use learn_p=False"),
    (dict(gnn_args={"p": 3.0}), r"learned p must start inside \(1, 3\), got 3"),
    (dict(gnn_args={"mu": -0.1}), r"pgnn: mu must be in \[0, "),
    (dict(gnn_args={"mu": 0, "learn_mu": True}), r"pgnn: mu must be in \(0, "),
    (dict(gnn_args={"learn_p": "no"}), "pgnn: learn_p must be True or False, got 'no'"),
    (dict(gnn_args={"steps": 0}), "pgnn: steps must be an integer from 1 to 64, got 0"),
    (dict(gnn_args={"steps": 65}), "steps must be an integer from 1 to 64, got 65"),
    (dict(gnn="appnp", gnn_args={"steps": 1.5}), "appnp: steps must be an integer from 1 to 64, got 1.5"),
    (dict(gnn="appnp", gnn_args={"steps": "two"}), "appnp: steps must be an integer"),
    (dict(gnn="appnp", gnn_args={"alpha": 0}), r"appnp: alpha must be in \(0, 1\], got 0"),
    (dict(gnn="gcnii", gnn_args={"degree": "max"}), "gcnii: degree must be one of sum, mean, got 'max'"),
    (dict(gnn="gcnii", gnn_args={"theta": 1.8}), r"gcnii: theta must be in \(0, 1.71828\]"),
    (dict(gnn="gcnii", gnn_args={"alpha": 0}), r"gcnii: alpha must be in \(0, 1\]"),
    (dict(gnn="residual", gnn_args={"alpha": 0}), r"residual: alpha must be in \(0, 1\]"),
    (dict(gnn="rotated", gnn_args={"seed": -1}), r"rotated: seed must be in \[0, "),
    (dict(gnn="rotated", gnn_args={"seed": 1.5}), "rotated: seed must be an integer, got 1.5"),
    (dict(p=1.5, gnn_args={"p": 1.2}), "p is given twice, by itself and in gnn_args"),
    (dict(target_modules=3), "target_modules must be a list of names of modules, got 3"),
    (dict(ffn_modules=[3]), "ffn_modules must be a list of names of modules"),
    (dict(modules_to_save="head"), "modules_to_save must be a list of names of modules, got 'head'"),
    (dict(format_version=True), "format_version must be an integer, got True"),
    (dict(format_version=1), "saved in format 1, and this version of attngraph reads format 2: train"),
    (dict(inference_mode="x"), "inference_mode must be True or False, got 'x'"),
    (dict(ffn_modules=[]), r"ffn_modules=\[\] names no module"),
    (dict(exclude_modules=["a", ""]), "exclude_modules=.'', 'a'. names no module"),
    (dict(exclude_modules="(a"), r"exclude_modules='\(a' is not a valid regular expression"),
    (dict(ffn_modules="h", positions="self"), "ffn_modules names .*: add ffn to positions, or remove it"),
    (dict(layers_pattern="h"), "layers_pattern says how layers are counted: pass layers_to_transform too"),
    (dict(layers_to_transform=[-1]), r"layers_to_transform must be the number of a layer, .* got \[-1\]"),
    (dict(layers_to_transform=[]), "layers_to_transform must be the number of a layer, or a list of them"),
    (dict(layers_to_transform=0, target_modules=".*attn"), "cannot be used with target_modules='.*attn', a"),
]


def test_bad_settings():
    for settings, message in BAD:
        with pytest.raises(UserError, match=message) as caught:
            GraphAdapterConfig(**settings)
        assert "\n" not in str(caught.value)


def test_numbers_of_numpy_survive_json():
    args = {"steps": np.int64(2), "alpha": np.float64(0.5)}
    more = dict(shared=np.bool_(True), reduction=np.int64(4), layers_to_transform=[np.int64(1), 0])
    saved = json.loads(json.dumps(GraphAdapterConfig(gnn="appnp", gnn_args=args, **more).to_dict()))
    assert saved["gnn_args"] == {"steps": 2, "alpha": 0.5} and saved["degree"] == "sum"
    assert saved["shared"] is True and saved["reduction"] == 4 and saved["layers_to_transform"] == [0, 1]
    assert GraphAdapterConfig(positions="self").positions == ("self",)


def test_names_lead_to_classes_and_their_defaults():
    exponent = {"p": 1.5, "mu": 0.1, "learn_p": True, "learn_mu": False}
    one_step = {"steps": 1, "degree": "sum"}
    defaults = {
        "appnp": {"alpha": 0.1} | one_step,
        "gcn": {"normalize": False},
        "gcnii": {"alpha": 0.1, "theta": 0.5} | one_step,
        "residual": {"alpha": 0.1},
        "rotated": exponent | one_step | {"seed": 0},
    }
    defaults |= dict.fromkeys(("pgnn", "tempering"), exponent | one_step)
    for name, arguments in defaults.items():
        scheme = GraphAdapterConfig(gnn=name).scheme()
        assert type(scheme) is SCHEMES[name] and scheme.name == name
        assert GraphAdapterConfig(gnn=name).scheme_args() == arguments


def test_p_starts_where_it_should_and_stays_in_range():
    for p in (1.01, 1.25, 1.5, 2.9):
        assert PGNN(p=p).p.item() == pytest.approx(p, abs=1e-5)
    scheme = PGNN()
    for logit in (-1e4, 1e4):
        scheme.p_logit.set(logit)
        assert 1 <= scheme.p.item() <= 3
    assert PGNN(mu=10, learn_mu=True).mu.item() == pytest.approx(10, rel=1e-5)
    assert not list(PGNN(p=2, learn_p=False).parameters())


def test_every_argument_of_our_schemes_has_a_keyword_that_reaches_it():
    ours = [scheme for scheme in SCHEMES.values() if scheme.__module__.startswith("attngraph.adapters.")]
    assert {name for scheme in ours for name in inspect.signature(scheme).parameters} == set(SCHEME_ARGS)
    args = {"p": 1.25, "mu": 10, "steps": 2, "degree": "mean"}
    by_name, together = GraphAdapterConfig(**args), GraphAdapterConfig(gnn_args=args)
    assert by_name.scheme_args() == together.scheme_args() == args | {"learn_p": True, "learn_mu": False}
    both = GraphAdapterConfig(gnn="appnp", gnn_args={"alpha": 0.3}, steps=2)
    assert both.scheme_args() == {"alpha": 0.3, "steps": 2, "degree": "sum"}


def test_saved_settings_come_back(tmp_path):
    numpy = dict(gnn_args={"alpha": np.float64(0.3)}, steps=np.int64(2), exclude_modules={"x"})
    config = GraphAdapterConfig(gnn="appnp", **numpy, positions=["cross"], target_modules=["b", "a"])
    config.save_pretrained(tmp_path)
    for kind in (PeftConfig, GraphAdapterConfig):
        assert kind.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert config.positions == ("cross",)


def test_a_later_default_changes_no_saved_adapter(tmp_path, monkeypatch):
    config = GraphAdapterConfig(gnn="pgnn", p=1.25)
    config.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    saved = json.loads(path.read_text())
    assert {name: saved[name] for name in ("p", "mu", "steps", "learn_p", "degree", "format_version")} == {
        "p": 1.25, "mu": 0.1, "steps": 1, "learn_p": True, "degree": "sum", "format_version": 2
    }  # fmt: skip
    assert saved["alpha"] is None and saved["gnn_args"] == {}
    before = {name: value for name, value in saved.items() if name not in ("format_version", "mu")}
    config = config.to_dict()
    monkeypatch.setattr(SCHEMES["pgnn"].__init__, "__defaults__", (1.5, 7.0, 1, True, False, "mean"))
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config and loaded.scheme().mu == 0.1
    assert GraphAdapterConfig().to_dict()["mu"] == 7
    path.write_text(json.dumps(before))  # as they were saved before: today's defaults
    assert PeftConfig.from_pretrained(tmp_path).scheme().mu == 7
    path.write_text(json.dumps(saved | {"flavour": 1}))
    with pytest.warns(UserWarning, match="flavour"):
        assert PeftConfig.from_pretrained(tmp_path).p == 1.25
    path.write_text(json.dumps(saved | {"format_version": 3}))
    with pytest.raises(UserError, match="saved in format 3, and .* reads format 2: update attngraph"):
        PeftConfig.from_pretrained(tmp_path)
