"""The settings of a graph adapter under PEFT: checked like all others, and found again after saving."""

import dataclasses
import inspect
import json

import numpy as np
import pytest
from peft import PeftConfig

from adapters import SCHEMES, GraphAdapterConfig
from adapters.config import AdapterConfig
from adapters.peft.config import SCHEME_ARGS
from attngraph.errors import UserError

BAD = [
    (dict(gnn="gat"), "unknown gnn 'gat': choose one of appnp, gcn, gcnii, pgnn"),
    (dict(gnn="gcn", steps=2), "gcn has no argument 'steps': it takes normalize"),
    (dict(gnn="pgnn", p=0.9), r"pgnn: p must lie in \[1, 8\], got 0.9"),
    (dict(gnn="pgnn", gnn_args={"q": 2}), "pgnn has no argument 'q'"),
    (dict(gnn="pgnn", p=1.5, gnn_args={"p": 1.2}), "p is given twice, by itself and in gnn_args"),
    (dict(gnn_args=3), "gnn_args must be a dict"),
    (dict(join="add"), "unknown join 'add': choose one of replace, gated, blend"),
    (
        dict(positions=("self", "vision")),
        "positions must be one or more of self, cross, ffn, got self, vision",
    ),
    (dict(reduction=0), "reduction must be a whole number of at least 1, got 0"),
    (dict(top_k=1.5), "top_k must be a whole number"),
    (dict(target_modules=3), "target_modules must be a list of names of modules, got 3"),
    (dict(ffn_modules=[3]), "ffn_modules must be a list of names of modules"),
    (dict(modules_to_save="head"), "modules_to_save must be a list of names of modules, got 'head'"),
    (dict(reduction=True), "reduction must be a whole number of at least 1, got True"),
    (dict(rescale=None), "rescale must be True or False, got None"),
    (dict(shared="yes"), "shared must be True or False, got 'yes'"),
    (dict(p=True), "pgnn: p must be a number, got True"),
    (dict(learn_p="no"), "pgnn: learn_p must be True or False, got 'no'"),
    (dict(learn_mu=1), "pgnn: learn_mu must be True or False, got 1"),
    (dict(gnn="gcn", normalize=0.0), "gcn: normalize must be True or False, got 0.0"),
    (dict(format_version=True), "format_version must be a whole number, got True"),
    (dict(init_weights=None), "init_weights must be True or False, got None"),
    (dict(inference_mode="x"), "inference_mode must be True or False, got 'x'"),
    (dict(target_modules=[]), r"target_modules=\[\] names no module: leave it out for the default"),
    (dict(target_modules=""), "target_modules='' names no module"),
    (dict(ffn_modules=()), r"ffn_modules=\[\] names no module"),
    (dict(exclude=["a", ""]), "exclude=.'', 'a'. names no module"),
    (dict(exclude="(a"), r"exclude='\(a' is no regular expression"),
]


@pytest.mark.parametrize("settings, message", BAD, ids=lambda x: str(x) if isinstance(x, dict) else "")
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        GraphAdapterConfig(**settings)
    assert "\n" not in str(caught.value)


def test_every_argument_of_our_schemes_has_a_keyword():
    ours = [scheme for scheme in SCHEMES.values() if scheme.__module__.startswith("adapters.")]
    assert {name for scheme in ours for name in inspect.signature(scheme).parameters} == set(SCHEME_ARGS)


def test_arguments_reach_the_scheme():
    config = GraphAdapterConfig(
        gnn="pgnn", p=1.25, mu=10, steps=2, degree="mean", join="gated", top_k=4, shared=True
    )
    want = AdapterConfig(
        "pgnn", {"p": 1.25, "mu": 10, "steps": 2, "degree": "mean"}, "gated", top_k=4, shared=True
    )
    assert config.settings() == want
    both = GraphAdapterConfig(gnn="appnp", gnn_args={"alpha": 0.3}, steps=2)
    assert both.settings().scheme_args() == {"alpha": 0.3, "steps": 2, "degree": "sum"}


@pytest.mark.parametrize(
    "settings",
    [
        dict(
            gnn="pgnn",
            p=1.25,
            learn_mu=True,
            positions=["cross"],
            target_modules=["b", "a"],
            task_type="CAUSAL_LM",
        ),
        dict(
            gnn="appnp",
            gnn_args={"alpha": np.float64(0.3)},
            steps=np.int64(2),
            target_modules=r".*\.attn",
            exclude={"x"},
        ),
    ],
)
def test_saved_settings_come_back(settings, tmp_path):
    config = GraphAdapterConfig(**settings)
    config.save_pretrained(tmp_path)
    json.loads((tmp_path / "adapter_config.json").read_text())
    for kind in (PeftConfig, GraphAdapterConfig):
        assert kind.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert config.positions == tuple(settings.get("positions", ("self", "cross", "ffn")))


def test_a_later_default_changes_no_saved_adapter(tmp_path, monkeypatch):
    config = GraphAdapterConfig(gnn="pgnn", p=1.25)
    config.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    saved = json.loads(path.read_text())
    assert {name: saved[name] for name in ("p", "mu", "steps", "learn_p", "degree", "format_version")} == {
        "p": 1.25, "mu": 0.1, "steps": 1, "learn_p": True, "degree": "sum", "format_version": 1
    }  # fmt: skip
    assert saved["alpha"] is None and saved["gnn_args"] == {}
    before = {name: value for name, value in saved.items() if name not in ("format_version", "mu")}
    config = config.to_dict()
    monkeypatch.setattr(SCHEMES["pgnn"].__init__, "__defaults__", (1.5, 7.0, 1, True, False, "mean"))
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config and loaded.settings().scheme().mu == 0.1
    assert GraphAdapterConfig().to_dict()["mu"] == 7
    path.write_text(json.dumps(before))  # as they were saved before: today's defaults
    assert PeftConfig.from_pretrained(tmp_path).settings().scheme().mu == 7
    path.write_text(json.dumps(saved | {"format_version": 2}))
    with pytest.raises(UserError, match="saved in format 2, and .* reads formats up to 1: update attngraph"):
        PeftConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", [AdapterConfig, GraphAdapterConfig])
def test_another_scheme_in_a_copy_has_its_own_defaults(kind):
    copy = dataclasses.replace(kind(), gnn="appnp")
    assert copy.to_dict() == kind(gnn="appnp").to_dict()


def test_a_setting_of_a_later_version_is_left_out_with_a_warning(tmp_path):
    GraphAdapterConfig(p=1.25).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"flavour": 1}))
    with pytest.warns(UserWarning, match="flavour"):
        assert PeftConfig.from_pretrained(tmp_path).p == 1.25
