"""The command `attngraph tsne` on the mini-BLIP, and how nodes of other kinds of models are labelled."""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.points import COLUMNS
from attngraph import AttentionGraph
from attngraph.errors import UserError
from experiments.base.lock import sole_use
from experiments.cli import main
from experiments.commands import tsne
from experiments.inspect.points import node_labels
from experiments.inspect.source import open_source
from experiments.inspect.words import PATCH_NAMES
from experiments.models.batch import Batch, Sample, Text
from experiments.scenes.drawing import patch_targets
from tests.experiments.tiny import save_adapter

LAYER = "text_decoder.bert.encoder.layer.{}.{}.self"
QUICK = ("--examples", "6", "--method", "pca", "--points", "120")


def parse(*words):
    parser = argparse.ArgumentParser()
    tsne.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def run(out, *words):
    """The tables of a run."""
    assert tsne.run(parse("--out", out, *words)) == 0
    return pd.read_csv(out / "coordinates.csv", keep_default_na=False), pd.read_csv(out / "quality.csv")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    out = tmp_path_factory.mktemp("tsne")
    words = ("--examples", 8, "--points", 150, "--perplexity", 5, 10, "--colour", "role", "class")
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
    assert sorted(file.name for file in out.iterdir()) == [
        "coordinates.csv",
        "quality.csv",
        "run.json",
        "tsne-class.png",
        "tsne-class.svg",
        "tsne-role.png",
        "tsne-role.svg",
    ]
    told = [
        tuple(row) for row in measures[measures.panel == 3][["measure", "label", "space"]].fillna("").values
    ]
    assert told == [
        ("trustworthiness", "", "map"),
        *(("purity", label, space) for label in ("role", "class") for space in ("features", "map")),
    ]
    assert (measures[measures.measure == "trustworthiness"].value > 0.8).all()


def test_the_same_seed_gives_the_same_map(first, tmp_path):
    _, _, table, _ = first
    again, _ = run(
        tmp_path,
        "--examples",
        8,
        "--points",
        150,
        "--perplexity",
        5,
        "--layers",
        LAYER.format(3, "attention"),
    )
    pd.testing.assert_frame_equal(again, table[table.panel == 0])


def test_labels_are_those_of_the_nodes(first):
    _, words, table, _ = first
    source = open_source(parse(*words))
    shown, tokens = {}, {}
    for batch in source.batches():
        for name, scene, *text in zip(
            batch.names, batch.scenes, batch.text.tokens, batch.text.special, batch.text.padding
        ):
            shown[str(name)] = patch_targets(scene)[0]
            tokens[str(name)] = [
                (token, bool(special)) for token, special, padding in zip(*text) if not padding
            ]
    assert table.example.nunique() == 8
    for row in table.itertuples():
        label = row[table.columns.get_loc("class") + 1]
        if row.modality == "text":
            token, special = tokens[str(row.example)][row.node]  # so no padding: an IndexError otherwise
            assert (row.token, label) == (token, "special token" if special else "word")
        else:
            assert row.token == "" and row.role == "value" and row.kind == "cross"
            assert label == (
                PATCH_NAMES[shown[str(row.example)][row.node - 1]] if row.node else "image's [CLS]"
            )


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


@pytest.mark.parametrize(
    "words, message",
    [
        (("--layers", "nowhere"), "no attention layer is called 'nowhere'; choose from .*crossattention"),
        (
            ("--method", "tsne", "--perplexity", 5, 60),
            r"attention.* gives \d+ points, too few .* needs 181: .* or a lower --perplexity",
        ),
        (("--method", "tsne", "--perplexity", "nan"), "--perplexity must be"),
        (
            ("--perplexity", 30, 1, "--method", "umap"),
            "--perplexity must be numbers from 2 on for umap",
        ),
        (("--perplexity", 5, 7), "--perplexity changes nothing in PCA: leave it out"),
        (("--heads", 0, 99), "has heads 0..3, not 99: choose --heads .* \\(--layers\\)$"),
        (("--layers", "vision_model*3*", "--colour", "token"), "--colour token: nothing is known"),
    ],
)
def test_bad_input_ends_in_one_line_and_writes_nothing(tmp_path, words, message):
    with pytest.raises(UserError, match=message) as error:
        run(tmp_path / "out", *QUICK, *words)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["tsne", "heterophily", "attention", "bench"])
def test_a_folder_in_use_is_refused_before_any_work(name, tmp_path, capsys):
    """All commands that take the folder for themselves as this one does."""
    with sole_use(tmp_path / "out"):
        assert main([name, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "out is in use by another command (process" in line


def graph_of(n, m, **more):
    return AttentionGraph(torch.randn(2, 1, n, 3), torch.randn(2, 1, m, 3), torch.rand(2, 1, n, m), **more)


def text_batch(**inputs):
    tokens = [["[CLS]", "red", "[SEP]"], ["[CLS]", "[SEP]", "[PAD]"]]
    special = torch.tensor([[True, False, True], [True, True, True]])
    padding = torch.tensor([[False, False, False], [False, False, True]])
    text = Text(tokens, torch.zeros(2, 3, dtype=torch.long), special, padding)
    return Batch([Sample("a", None), Sample("b", None)], inputs, text)


def test_text_nodes_of_a_mixed_sequence_get_the_tokens_in_order():
    image = torch.tensor([[True, False, False, True, False]] * 2)
    labels, valid = node_labels(text_batch(), graph_of(5, 5, query_modality=image), 0)
    assert labels["token"].tolist() == [
        ["", "[CLS]", "red", "", "[SEP]"],
        ["", "[CLS]", "[SEP]", "", "[PAD]"],
    ]
    assert labels["class"][0].tolist() == ["image", "special token", "word", "image", "special token"]
    assert valid.tolist() == [[True] * 5, [True, True, True, True, False]]


def test_a_sequence_that_holds_the_images_places_gets_the_tokens_of_the_text():
    image = torch.tensor([[False, True, False]] * 2)
    labels, valid = node_labels(text_batch(), graph_of(3, 3, query_modality=image), 0)
    assert labels["token"].tolist() == [["[CLS]", "", "[SEP]"], ["[CLS]", "", "[PAD]"]]
    assert valid.tolist() == [[True] * 3, [True, True, False]]


def test_nodes_that_are_no_tokens_stay_without():
    for graph in (graph_of(3, 3, query_modality="image"), graph_of(4, 4, query_modality="text")):
        labels, valid = node_labels(text_batch(), graph, 0)
        assert (labels["token"] == "").all() and valid.all()
