"""The command ``attngraph attention``, on the model and scenes that it has at hand."""

import base64
import re
from functools import wraps

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import VisionEncoderDecoderModel
from transformers.modeling_outputs import BaseModelOutput

from attngraph import capture
from attngraph.analysis.plots.style import files
from attngraph.experiments.base.arguments import asked
from attngraph.experiments.commands import attention
from attngraph.experiments.commands.options import AttentionOptions
from attngraph.experiments.inspect import attention as views
from attngraph.experiments.inspect import source as sources
from attngraph.experiments.inspect.attention import ask
from attngraph.experiments.inspect.regions import region
from attngraph.experiments.models import load_family
from attngraph.experiments.models.images import preprocess
from tests.analysis.viewer.page_reading import stored
from tests.experiments.inspect.looking import pictures, source
from tests.experiments.tiny import save, save_adapter

CROSS = "text_decoder.bert.encoder.layer.{}.crossattention.self"


def run(out, *words) -> int:
    return attention.run(asked(AttentionOptions, [*map(str, words), "--out", str(out)]))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("attention")
    assert run(out, "--examples", 24, "--pictures", 2) == 0
    return out


def test_the_token_before_the_answer_looks_at_the_asked_object(results):
    summary = pd.read_csv(results / "summary.csv").set_index(["method", "query"])
    assert summary.loc[("raw", "answer"), "excess_low"] > 0.1
    assert summary.loc[("gradient", "answer"), "excess_low"] > 0
    assert summary["mass"].between(0, 1).all() and summary["examples"].nunique() == 1
    tables, figures = (
        {"maps.csv", "mass.csv", "summary.csv"},
        {name for stem in ("maps_answer", "maps_first", "mass") for name in files(stem)},
    )
    assert {file.name for file in results.iterdir()} == {*tables, *figures, "run.json", "viewer.html"}
    maps = pd.read_csv(results / "maps.csv")
    assert len(maps) == 2 * 3 * 2 * 64
    assert maps.groupby(["example", "method", "query"])["share"].sum().to_numpy() == pytest.approx(1)


def test_the_mass_is_what_the_weights_say(tmp_path, monkeypatch):
    """One example again, from its picture and question to the mass, in other words."""
    seen = {}
    monkeypatch.setattr(attention, "ask", lambda *args: seen.setdefault("asked", ask(*args)))
    run(tmp_path, *"--examples 3 --tokens answer --pictures 1 --layers *layer.2* --heads 1 3".split())
    (asked, *_), things = seen["asked"]
    family = load_family()
    model, tokenizer = family.model, family.tokenizer
    ids = torch.tensor(
        [[tokenizer.bos_token_id, *tokenizer(asked.prompt, add_special_tokens=False).input_ids]]
    )
    graph = capture(
        model,
        {"pixel_values": preprocess([asked.image]), "input_ids": ids, "attention_mask": torch.ones_like(ids)},
    )[CROSS.format(2)]
    row = graph.weight[0, [1, 3], -1, 1:].mean(0).view(8, 8)
    thing = things[asked.name]
    low, high = (
        [max(0, (centre + way * thing.radius) // 8) for centre in (thing.y, thing.x)] for way in (-1, 1)
    )
    box = row[low[0] : high[0] + 1, low[1] : high[1] + 1].sum() / row.sum()
    table = pd.read_csv(tmp_path / "mass.csv", dtype={"example": str})
    found = table[(table["example"] == asked.name) & (table["method"] == "raw")]["mass"].item()
    inside = region(asked.scene, thing, 8).view(8, 8)
    assert found == pytest.approx(float(row[inside].sum() / row.sum()), rel=1e-4)
    assert found <= float(box) + 1e-6  # the patches that the object touches


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    """An encoder-decoder that is not BLIP, with patches in no square, and options with what it is run on."""
    folder = tmp_path_factory.mktemp("captioner")
    (folder / "texts.txt").write_text("red\na red ball\n")
    files = pictures(folder / "pictures", "0.png", "1.png")
    return "--model", save("captioner", folder / "model"), "--images", *files, "--texts", folder / "texts.txt"


def test_an_encoder_decoder_of_another_kind(captioner, tmp_path):
    run(tmp_path, *captioner)
    maps = pd.read_csv(tmp_path / "maps.csv")
    assert set(maps["query"]) == {"first", "answer"} and set(maps["method"]) == {"raw", "rollout", "gradient"}
    assert (maps["row"].max(), maps["column"].max()) == (1, 2)
    examined = source(*captioner)
    (batch,) = examined.batches()
    last = [graph for graph in capture(examined.model, batch.inputs).values() if graph.kind == "cross"][-1]
    row = last.weight[1, :, 1, 1:].mean(0)  # of [CLS], after which "a" is written
    found = maps[(maps["example"] == "1.png") & (maps["method"] == "raw") & (maps["query"] == "answer")]
    assert found.sort_values(["row", "column"])["share"].tolist() == pytest.approx(
        (row / row.sum()).tolist(), rel=1e-4
    )


def test_without_logits_there_is_no_gradient_map(captioner, tmp_path, monkeypatch, capsys):
    forward = VisionEncoderDecoderModel.forward

    @wraps(forward)  # whose signature is read
    def without_logits(*args, **kwargs):
        return BaseModelOutput(forward(*args, **kwargs).logits)

    monkeypatch.setattr(VisionEncoderDecoderModel, "forward", without_logits)
    run(tmp_path, *captioner, "--batch", 1)
    maps = pd.read_csv(tmp_path / "maps.csv")
    assert set(maps["method"]) == {"raw", "rollout"} and set(maps["example"]) == {"0.png", "1.png"}
    assert "no gradient map: VisionEncoderDecoderModel (model) has no logits" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["captioner", "llava", "blip2"])
def test_large_graphs_are_streamed(name, tmp_path, monkeypatch, capsys):
    """Raw attention and the page are those of all weights, which no layer holds, also through the queries in
    between; methods that need them are left out, which is said, with the remedy."""
    (tmp_path / "texts.txt").write_text("red\na red ball\n", encoding="utf-8")
    images = pictures(tmp_path / "pictures", "0.png", "1.png", size=(12, 8))
    words = ("--model", save(name, tmp_path / "model"), "--images", *images)
    words += ("--texts", tmp_path / "texts.txt", "--tokens", "last")
    run(tmp_path / "dense", *words)
    monkeypatch.setattr(sources, "LARGE", 0)
    monkeypatch.setattr("attngraph.streaming.EDGES", 64)  # some queries at a time
    monkeypatch.setattr("attngraph.streaming.Streamed.dense", lambda weight: pytest.fail("all weights"))
    capsys.readouterr()
    run(tmp_path / "stream", *words)
    assert "no rollout and gradient maps, which need all weights" in capsys.readouterr().out
    wanted, found = (pd.read_csv(tmp_path / way / "maps.csv") for way in ("dense", "stream"))
    assert {"raw", "rollout"} < set(wanted.method) and set(found.method) == {"raw"}
    wanted = wanted[wanted.method == "raw"].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, wanted, rtol=1e-4, atol=1e-6)
    assert found.share.std() > 1e-4
    for one, other in zip(drawn(tmp_path / "stream"), drawn(tmp_path / "dense"), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-3)


def drawn(folder) -> list[np.ndarray]:
    """The strongest weights, their factors and the sums of each layer in a folder's page."""
    layers = [layer for shown in stored(folder / "viewer.html")["examples"] for layer in shown["layers"]]
    kinds = {"weight": "<u2", "most": "<f4", "sum": "<f4"}
    return [
        np.frombuffer(base64.b64decode(layer["weights"][0][name]), kind) / (65535 if kind == "<u2" else 1)
        for layer in layers
        for name, kind in kinds.items()
    ]


def test_an_adapted_model_shows_both_weights(tmp_path):
    """Whatever the backend of its messages: tiles never hold the weights that are differentiated."""
    summaries = []
    for backend in ("dense", "tiled"):
        adapter, out = tmp_path / f"adapter-{backend}", tmp_path / backend
        save_adapter(adapter, gnn="pgnn", join="replace", backend=backend)
        run(out, "--adapter", adapter, "--examples", 4, "--pictures", 2)
        assert {"maps_answer.png", "changes_answer.png"} < {file.name for file in out.iterdir()}
        summaries.append(pd.read_csv(out / "summary.csv").set_index(["method", "query"])["mass"])
    one, other = summaries
    methods = ["raw M", "raw M\u0304", "rollout M", "rollout M\u0304", "gradient"]
    assert [method for method, query in one.index if query == "answer"] == methods
    assert abs(one["raw M", "answer"] - one["raw M\u0304", "answer"]) > 1e-3
    assert '"weights":["M","M\u0304"]' in (tmp_path / "dense" / "viewer.html").read_text(encoding="utf-8")
    pd.testing.assert_series_equal(one, other, rtol=1e-4)


def test_a_question_that_the_encoder_reads_stands_before_what_the_decoder_writes(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(views, "draw_maps", lambda *args, **_: drawn.extend([*args[1].values(), args[4]]))
    run(tmp_path / "asked", "--model", "mini-mplug", "--examples", 1, "--tokens", "answer")
    run(tmp_path / "said", "--model", "mini-mplug", "--examples", 1, "--tokens", "last", "--task", "caption")
    (_, asked), inside, (_, said), nowhere = drawn
    assert all(region.any() for region in inside.values()) and len(inside) == 1 and not nowhere
    assert re.fullmatch(r"what [a-z ]+ \? → [a-z]+", asked)
    assert re.fullmatch(r"[^→\[]+", said)  # pictures go to the decoder directly


def test_queries_in_between_are_shown_with_the_picture(tmp_path):
    """BLIP-2: the layer by which the queries see the image is there without being asked for."""
    folder = save("blip2", tmp_path / "model")
    (tmp_path / "texts.txt").write_text("a red ball\n")
    images = pictures(tmp_path / "pictures", "x.png")
    run(tmp_path / "out", "--model", folder, "--images", *images, "--texts", tmp_path / "texts.txt")
    page = (tmp_path / "out" / "viewer.html").read_text(encoding="utf-8")
    assert (
        "qformer.encoder.layer.0.crossattention.attention" in page
        and "language_model.model.decoder.layers.1.self_attn" in page
    )
    assert '"name":"x.png: [CLS] a red ball [SEP]"' in page
