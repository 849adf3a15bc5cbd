"""The command `attngraph heterophily` on the mini-BLIP, its labels, and its errors."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from attngraph.analysis.heterophily import REGION_STATISTICS
from attngraph.analysis.plots.style import files
from attngraph.errors import UserError
from attngraph.experiments.base.arguments import asked
from attngraph.experiments.commands import heterophily
from attngraph.experiments.commands.options import HeterophilyOptions
from attngraph.experiments.inspect import source as sources
from attngraph.experiments.inspect import statistics
from attngraph.experiments.inspect.source import open_source
from attngraph.experiments.inspect.statistics import CLOSED_FORM, REGIONS, STREAMED, screen
from attngraph.experiments.scenes.words import all_words
from tests.experiments.inspect.looking import pictures
from tests.experiments.tiny import adapted, save

LAYER = "text_decoder.bert.encoder.layer.{}.{}.self"
QUICK = ("--examples", 4)


def parse(*words):
    return asked(HeterophilyOptions, [str(word) for word in words])


def run(out, *words, figures: bool = False) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heterophily, "Settings", partial(heterophily.Settings, permutations=1, replicates=10))
        if not figures:
            patch.setattr(heterophily, "draw_figures", lambda *_: [])
        assert heterophily.run(parse("--out", out, *QUICK, *words)) == 0
    return pd.read_csv(out / "heterophily.csv", keep_default_na=False, na_values=[""])


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    out = tmp_path_factory.mktemp("heterophily")
    words = ("--layers", "vision_model*3*", LAYER.format(3, "*"), "--heads", 3, 1, "--spectra")
    with pytest.MonkeyPatch.context() as patch:
        for figure in ("heat_maps", "spectra"):  # which take long, and are drawn by tests of their own
            patch.setattr(statistics, figure, lambda data, stem, subject: stem.with_suffix(".png").touch())
        return out, run(out, *words, figures=True)


def test_files_and_columns(first):
    out, table = first
    stacks = [
        "text_decoder-bert-encoder-layer-attention-self",
        "text_decoder-bert-encoder-layer-crossattention-self",
        "vision_model-encoder-layers-self_attn",
    ]
    assert {file.name for file in out.iterdir()} == {
        "heterophily.csv",
        "run.json",
        "spectrum.csv",
        *(name for stack in stacks for name in files(f"curves-{stack}")),
        *(f"{kind}-{stack}.png" for stack in stacks for kind in ("heads", "spectra")),
    }
    assert set(table["head"]) == {"3", "1", "all"} and set(table.weights) == {"M"}
    assert table.layer.nunique() == 3 and set(table.kind) == {"self", "cross"}


def test_labels_of_each_kind_of_layer(first):
    _, table = first
    labels = {layer: set(part.labels.dropna()) for layer, part in table.groupby("layer")}
    assert labels == {
        "vision_model.encoder.layers.3.self_attn": {"modality", "patch", "cluster"},
        LAYER.format(3, "attention"): {"special or word", "token", "part of speech", "cluster"},
        LAYER.format(3, "crossattention"): {
            *("modality", "named shape", "part of speech and patch", "cluster", "named region"),
        },
    }


def test_the_image_encoder_is_homophilous_in_what_patches_show(first):
    """A known answer: patches of the last layer read patches that show the same thing."""
    _, table = first
    found = table[
        (table.labels == "patch") & (table.statistic == "adjusted") & (table["head"] == "all")
    ].iloc[0]
    assert found.excess_low > 0.1


def test_large_graphs_are_streamed(tmp_path, monkeypatch, capsys):
    """The same numbers from a model that runs SDPA; what needs all weights is left out, and said so."""
    texts = tmp_path / "texts.txt"
    texts.write_text("red\na red ball\n", encoding="utf-8")
    words = ("--model", save("llava", tmp_path / "model"), "--texts", texts, "--clusters", 2)
    words += ("--images", *pictures(tmp_path, "0.png", "1.png", size=(12, 8)))
    wanted = run(tmp_path / "dense", *words)
    assert STREAMED not in capsys.readouterr().out
    monkeypatch.setattr(sources, "LARGE", 0)
    found = run(tmp_path / "stream", *words)
    assert STREAMED in capsys.readouterr().out
    assert set(wanted.statistic) - set(found.statistic) == {*CLOSED_FORM, *REGIONS} & {*wanted.statistic}
    wanted = wanted[wanted.statistic.isin(found.statistic)].reset_index(drop=True)
    assert len(wanted) > 100
    pd.testing.assert_frame_equal(found, wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="--spectra decomposes graphs with all their weights"):
        run(tmp_path / "spectra", *words, "--spectra")


def test_screen(first):
    _, table = first
    shown = screen(table.fillna({"labels": "", "note": ""}))
    assert "text_decoder.bert.encoder.layer.*.crossattention.self" in shown
    assert "no finding by modality: role labels: the sides share no class" in shown
    assert "no finding by patch" not in shown
    assert "contrast rotation_change" in shown and "closed_form_r closed_form_variation" in shown
    adjusted = table[(table.statistic == "adjusted") & (table["head"] == "all") & (table.labels == "patch")]
    row = adjusted.iloc[0]
    assert f"{row.value:.3f}*({row.null_permuted:.3f})" in shown


def test_adapters_before_and_after(tmp_path):
    adapted(tmp_path)
    layers = ("--layers", LAYER.format("[01]", "crossattention"), "--heads", 0)
    table = run(tmp_path / "out", "--adapter", tmp_path, *layers)
    differences = {
        "M̄ − M before": ("M̄ before", "M before"),
        "M̄ − M after": ("M̄ after", "M after"),
        "M after − before": ("M after", "M before"),
        "M̄ after − before": ("M̄ after", "M̄ before"),
    }
    assert set(table.weights) == {"M before", "M̄ before", "M after", "M̄ after", *differences}
    assert "paired differences, without null" in screen(table.fillna({"labels": "", "note": ""}))
    entropy = table[(table["head"] == "all") & (table.statistic == "entropy")]
    for layer, part in entropy.set_index("weights").groupby("layer"):
        for difference, (one, other) in differences.items():
            found = part.loc[difference]
            assert found.value == pytest.approx(part.value[one] - part.value[other], abs=2e-5), difference
            assert found.low <= found.value <= found.high and found.examples == 4
        assert part.value["M̄ before"] != pytest.approx(part.value["M before"], rel=1e-3), layer
        assert part.value["M̄ after"] != pytest.approx(part.value["M̄ before"], rel=1e-3), layer
    frozen = run(tmp_path / "frozen", *layers)
    frozen = frozen[(frozen["head"] == "all") & (frozen.statistic == "entropy")].value.iloc[-1]
    assert part.value["M before"] == pytest.approx(frozen, rel=1e-5)
    assert part.value["M after"] != pytest.approx(frozen, rel=1e-4), "the layer before it has changed"


def test_contrast_of_regions(tmp_path):
    """What words and questions name; where a region is known, attention finds it better than one that is
    shifted."""
    words = ("--task", "vqa", "--examples", 12, "--layers", LAYER.format("[13]", "crossattention"))
    table = run(tmp_path / "sum", *words)
    regions = table[table.labels.isin(["named region", "asked region"]) & (table["head"] == "all")]
    assert set(regions.statistic) == set(REGION_STATISTICS)
    assert len(regions[["layer", "labels"]].drop_duplicates()) == 4
    mass = regions[(regions.statistic == "distractor_mass") & (regions.labels == "named region")]
    assert (mass.excess_high < 0).all()


def test_regions_file(tmp_path):
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "blue.png")
    (tmp_path / "texts").write_text("a blue square\n")
    (tmp_path / "regions.json").write_text('{"blue.png": [{"box": [8, 8, 24, 24], "words": ["square"]}]}')
    words = ("--images", tmp_path / "blue.png", "--texts", tmp_path / "texts", "--clusters", 0)
    layer = ("--layers", LAYER.format(0, "crossattention"))
    table = run(tmp_path / "out", *words, *layer, "--regions", tmp_path / "regions.json")
    chosen = table[(table.labels == "named region") & (table.statistic == "distractor_mass")]
    ((batch, graphs),) = open_source(parse(*QUICK, *words, *layer)).graphs()
    place = batch.text.tokens[0].index("square")
    on_patches = graphs[LAYER.format(0, "crossattention")].weight[0, :, place, 1:].unflatten(1, (8, 8))
    share = 1 - on_patches[:, 1:4, 1:4].sum((1, 2)) / on_patches.sum((1, 2))
    assert chosen.value.tolist() == pytest.approx([*share.tolist(), share.mean().item()], rel=1e-4)


def test_labels_of_ones_own(tmp_path):
    file = tmp_path / "mine.json"
    classes = {word: "xyz"[k % 3] for k, word in enumerate(all_words())}
    file.write_text(json.dumps(classes), encoding="utf-8-sig")
    words = ("--labels", file, "--layers", LAYER.format(0, "attention"))
    table = run(tmp_path / "out", *words, "--clusters", 0)
    assert "cluster" not in set(table.labels)
    batch, graphs = next(open_source(parse(*QUICK, *words)).graphs())
    weight, expected = graphs[LAYER.format(0, "attention")].weight.double().numpy(), []
    for lines, padding, tokens in zip(weight, batch.text.padding.tolist(), batch.text.tokens):
        pairs = [
            (i, j, classes[tokens[i]] == classes[tokens[j]])
            for i in range(len(tokens))
            for j in range(i)
            if not padding[i] and tokens[i] in classes and tokens[j] in classes
        ]
        expected.append(
            [
                sum(head[i, j] for i, j, equal in pairs if equal) / sum(head[i, j] for i, j, _ in pairs)
                for head in lines
            ]
        )
    found = table[(table.labels == "mine") & (table.statistic == "edge")]
    assert found.examples.tolist() == [4] * 5
    assert found.value.tolist() == pytest.approx([*np.mean(expected, 0), np.mean(expected)], rel=1e-4)
