"""Saved adapters in a model to look at: the right weights, off for descriptions, or one clear line."""

import argparse
import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel

from adapters.peft import GraphAdapterConfig
from attngraph import capture
from attngraph.errors import UserError
from experiments.inspect.adapted import put_in
from experiments.inspect.options import add_source_arguments, open_source
from experiments.models import load_family
from tests.experiments.tiny import adapted, save, save_adapter

LAYER = "text_decoder.bert.encoder.layer.1.crossattention.self"


def source(*words: str, trained: bool = True):
    parser = argparse.ArgumentParser()
    add_source_arguments(parser)
    return open_source(parser.parse_args([str(word) for word in words]), trained)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with adapters of the mini-BLIP, and that model."""
    folder = tmp_path_factory.mktemp("adapter")
    return folder, adapted(folder)


@pytest.mark.parametrize("trained", [True, False])
def test_adapters_of_the_mini_blip(saved, trained):
    folder, model = saved
    opened = source("--examples", 2, "--adapter", folder, trained=trained)
    ((batch, graphs),) = opened.graphs()
    expected = capture(model if trained else load_family().model, batch.inputs)[LAYER]
    torch.testing.assert_close(graphs[LAYER].weight, expected.weight)
    scheme = opened.adapters[LAYER].scheme
    p = float(scheme.p.detach())
    assert p > 1.6 if trained else p == pytest.approx(1.5)
    torch.testing.assert_close(opened.reweighted(LAYER, graphs[LAYER]).weight, scheme.reweight(expected))
    assert set(opened.adapters) == {name for name in graphs if name.startswith("text_decoder")}


def test_the_seed_decides_how_new_adapters_start(saved):
    folder, _ = saved

    def start(seed: int) -> torch.Tensor:
        return next(
            iter(put_in(load_family(), folder, trained=False, seed=seed).values())
        ).join.bottleneck.down.weight

    assert torch.equal(start(1), start(1)) and not torch.equal(start(1), start(2))


def test_without_its_adapters_the_model_is_the_frozen_one(saved):
    """So that descriptions, which all states of an adapted model read, do not depend on the adapters."""
    opened = source("--examples", 1, "--adapter", saved[0])
    (batch,) = opened.batches()

    def logits(model):
        with torch.no_grad():
            return model(**batch.inputs).logits

    frozen = logits(load_family().model)
    assert (logits(opened.model) - frozen).abs().max() > 1e-3
    with opened.family.unadapted():
        torch.testing.assert_close(logits(opened.model), frozen)
    assert (logits(opened.model) - frozen).abs().max() > 1e-3


def test_adapters_of_another_model(tmp_path):
    bert = save("bert", tmp_path / "bert")
    torch.manual_seed(0)
    config = GraphAdapterConfig(gnn="pgnn", p=1.3, init_weights=False)
    peft = get_peft_model(AutoModel.from_pretrained(bert), config).eval()
    peft.save_pretrained(tmp_path / "adapter")
    texts = tmp_path / "texts.txt"
    texts.write_text("a red ball\n")
    opened = source("--model", bert, "--texts", texts, "--adapter", tmp_path / "adapter")
    ((batch, graphs),) = opened.graphs()
    expected = capture(peft.get_base_model(), batch.inputs)
    for name, graph in graphs.items():
        torch.testing.assert_close(graph.weight, expected[name].weight)
        assert opened.reweighted(name, graph).weight.shape == graph.weight.shape
    for trained in (True, False):
        with pytest.raises(
            UserError, match="--adapter .*do not fit this BlipForCond.* missing .*, 20 left"
        ) as error:
            put_in(load_family(), tmp_path / "adapter", trained)
        assert "\n" not in str(error.value) and str(tmp_path / "adapter") in str(error.value)


@pytest.fixture(scope="module")
def new_adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("new")
    save_adapter(folder)
    return folder


def _former(folder):
    (folder / "adapter.safetensors").write_bytes(b"")
    return folder


def _former_file(folder):
    return _former(folder) / "adapter.safetensors"


def _lora(folder):
    model = load_family().model
    get_peft_model(model, LoraConfig(target_modules=["query"])).save_pretrained(folder)
    return folder


def _damaged_config(folder):
    (folder / "adapter_config.json").write_text("{")
    return folder


def _nested_config(folder):
    (folder / "adapter_config.json").write_text('{"gnn_args": ' + "[" * 100_000 + "]" * 100_000 + "}")
    return folder


def _unknown_gnn(folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"gnn": "hypergraph"}))
    return folder


def _damaged_weights(folder):
    (folder / "adapter_model.safetensors").write_bytes(b"{")
    return folder


def _no_weights(folder):
    (folder / "adapter_model.safetensors").unlink()
    return folder


def _other_width(folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"reduction": 16}))
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "no adapter_config.json there; give a folder"),
        (_former, "adapter.safetensors is of a format that is no longer read: train the adapter again"),
        (_former_file, "no longer read: train the adapter again"),
        (lambda folder: _no_weights(folder) / "adapter_config.json", "is a file: give the folder"),
        (_lora, "LORA, not a graph adapter"),
        (_damaged_config, "adapter_config.json is not a readable adapter configuration"),
        (_unknown_gnn, "hypergraph"),
        (_damaged_weights, "adapter_model.safetensors cannot be read"),
        (_no_weights, "adapter_model.safetensors: no such file"),
        (_other_width, "do not fit this BlipForConditionalGeneration: 36 of another shape"),
        (_nested_config, "adapter_config.json is not a readable adapter configuration"),
    ],
)
def test_what_cannot_be_put_in_is_one_line(make, message, new_adapter, tmp_path):
    folder = tmp_path / "adapter"
    if make in (_former, _former_file, _lora):
        folder.mkdir()
    else:
        shutil.copytree(new_adapter, folder)
    path = make(folder)
    with pytest.raises(UserError, match=message) as error:
        put_in(load_family(), path)
    assert "\n" not in str(error.value) and str(error.value).startswith("--adapter ")
