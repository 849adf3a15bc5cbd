"""The command `attngraph tsne` on the mini-BLIP, and how nodes of other kinds of models are labelled."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from attngraph.analysis import embedding
from attngraph.analysis.plots.style import files
from attngraph.analysis.points import COLUMNS
from attngraph.experiments.base.arguments import asked
from attngraph.experiments.base.lock import sole_use
from attngraph.experiments.cli import main
from attngraph.experiments.commands import tsne
from attngraph.experiments.commands.options import TsneOptions
from attngraph.experiments.inspect.source import open_source
from attngraph.experiments.inspect.words import PATCH_NAMES
from attngraph.experiments.scenes.drawing import patch_targets
from tests.experiments.tiny import save_adapter

LAYER = "text_decoder.bert.encoder.layer.{}.{}.self"
QUICK = ("--examples", "6", "--method", "pca", "--points", "120")


def parse(*words):
    return asked(TsneOptions, [str(word) for word in words])


def run(out, *words):
    """The tables of a run."""
    assert tsne.run(parse("--out", out, *words)) == 0
    return pd.read_csv(out / "coordinates.csv", keep_default_na=False), pd.read_csv(out / "quality.csv")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    out = tmp_path_factory.mktemp("tsne")
    words = ("--examples", 8, "--points", 100, "--perplexity", 5, 10, "--colour", "role", "class")
    with pytest.MonkeyPatch.context() as patch:
        for steps in ("EXAGGERATED", "PLAIN"):
            patch.setattr(embedding, steps, 50)
        return out, words, *run(out, *words)


def test_by_default_the_last_cross_attention_and_the_self_attention_before_it(first):
    out, _, table, measures = first
    layers = table[["layer", "kind", "head"]].drop_duplicates()
    assert list(layers.itertuples(index=False, name=None)) == [
        (LAYER.format(3, "attention"), "self", "all"),
        (LAYER.format(3, "crossattention"), "cross", "all"),
    ]
    assert list(table.columns[: len(COLUMNS)]) == COLUMNS
    assert table.perplexity.unique().tolist() == [5, 10] and table.panel.nunique() == 4
    figures = {name for colour in ("class", "role") for name in files(f"tsne-{colour}")}
    assert {file.name for file in out.iterdir()} == {"coordinates.csv", "quality.csv", "run.json", *figures}
    told = measures[measures.panel == 3][["label", "space"]].fillna("").agg(" ".join, axis=1)
    assert told.tolist() == [" map", "role features", "role map", "class features", "class map"]
    assert (measures[measures.measure == "trustworthiness"].value > 0.8).all()


def test_labels_are_those_of_the_nodes(first):
    _, words, table, _ = first
    assert table.example.nunique() == 8
    for batch in open_source(parse(*words)).batches():
        for k, name in enumerate(batch.names):
            rows = table[table.example.astype(str) == name]
            text, image = rows[rows.modality == "text"], rows[rows.modality != "text"]
            assert not batch.text.padding[k][text.node.tolist()].any()
            assert text.token.tolist() == [batch.text.tokens[k][node] for node in text.node]
            special = batch.text.special[k][text.node.tolist()].tolist()
            assert text["class"].tolist() == [("word", "special token")[one] for one in special]
            assert set(image.role) == {"value"} and set(image.kind) == {"cross"} and not image.token.any()
            shown = ["image's [CLS]", *(PATCH_NAMES[one] for one in patch_targets(batch.scenes[k])[0])]
            assert image["class"].tolist() == [shown[node] for node in image.node]


def test_any_layers_and_heads(tmp_path):
    table, _ = run(tmp_path, *QUICK, "--layers", "vision_model*0*", LAYER.format(1, "*"), "--heads", 2, 0, 2)
    panels = table[["layer", "head"]].drop_duplicates()
    assert len(panels) == 3 * 2 and panels["head"].tolist() == [2, 0] * 3
    assert set(table[table.layer.str.startswith("vision")].modality) == {"image"}


def test_the_map_is_that_of_the_features_after_w_o(tmp_path):
    """PCA of points made by hand: coordinates agree up to the sign of each direction."""
    table, _ = run(tmp_path, *QUICK, "--points", 100_000)
    source = open_source(parse(*QUICK))
    layer = LAYER.format(3, "crossattention")
    model = source.model
    weight = model.get_submodule(layer.rpartition(".")[0]).output.dense.weight.detach()
    found = []
    for batch, graphs in source.graphs():
        graph = graphs[layer]
        seen = torch.ones(len(batch.names), 65, dtype=torch.bool)
        for k in range(len(batch.names)):
            for x, valid in ((graph.query, ~batch.text.padding), (graph.value, seen)):
                found.append(x[k].transpose(0, 1).flatten(1)[valid[k]] @ weight.T)
    points = torch.cat(found).double()
    u, s, _ = torch.linalg.svd(points - points.mean(0), full_matrices=False)
    want = (u[:, :2] * s[:2]).numpy()
    got = table[table.layer == layer][["x", "y"]].to_numpy()
    np.testing.assert_allclose(np.abs(got), np.abs(want), atol=1e-3)


def test_an_adapted_models_points_on_the_frozen_models_map(tmp_path):
    save_adapter(tmp_path / "adapter", gnn="pgnn", join="replace")
    words = (*QUICK, "--layers", LAYER.format("[03]", "*"))
    table, measures = run(tmp_path / "both", *words, "--adapter", tmp_path / "adapter")
    frozen, adapted = (table[table.state == state].reset_index(drop=True) for state in ("frozen", "adapted"))
    alone, _ = run(tmp_path / "alone", *words)
    pd.testing.assert_frame_equal(frozen.drop(columns="panel"), alone.drop(columns="panel"))
    pd.testing.assert_frame_equal(frozen[[*COLUMNS, "map"]], adapted[[*COLUMNS, "map"]])
    moved = np.hypot(frozen.x - adapted.x, frozen.y - adapted.y).groupby(frozen.layer).max()
    assert moved[LAYER.format(0, "attention")] < 1e-3  # an adapter changes what comes after it
    assert (moved.drop(LAYER.format(0, "attention")) > 0.1).all()
    assert len(measures[measures.measure == "trustworthiness"]) == 8


@pytest.mark.parametrize("name", ["tsne", "heterophily", "attention", "bench"])
def test_a_folder_in_use_is_refused_before_any_work(name, tmp_path, capsys):
    """All commands that take the folder for themselves as this one does."""
    with sole_use(tmp_path / "out"):
        assert main([name, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "out is in use by another command" in line
