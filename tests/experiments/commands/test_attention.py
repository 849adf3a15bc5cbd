"""The command ``attngraph attention``, on the model and scenes that it has at hand."""

import argparse
import re
from dataclasses import replace
from functools import wraps

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import (
    VisionEncoderDecoderModel,
)
from transformers.modeling_outputs import BaseModelOutput

from attngraph import AttentionGraph, capture
from attngraph.errors import UserError
from experiments.commands import attention
from experiments.inspect import maps as views
from experiments.inspect.maps import ask
from experiments.inspect.regions import region
from experiments.inspect.source import Source
from experiments.inspect.words import words_of
from experiments.models import load_family
from experiments.models.batch import Batch, Sample, Text
from experiments.models.images import Pictures, preprocess
from experiments.scenes.drawing import draw
from experiments.scenes.scene import scenes
from tests.experiments.inspect.looking import pictures, source
from tests.experiments.tiny import save, save_adapter

CROSS = "text_decoder.bert.encoder.layer.{}.crossattention.self"


def run(out, *words) -> int:
    parser = argparse.ArgumentParser()
    attention.add_arguments(parser)
    return attention.run(parser.parse_args([*map(str, words), "--out", str(out)]))


def samples(count: int) -> list[Sample]:
    return [
        Sample(str(scene.id), draw(scene), scene=scene) for scene in scenes("test", count, 3, "downstream")
    ]


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
    assert sorted(file.name for file in results.iterdir()) == [
        "maps.csv",
        "maps_answer.png",
        "maps_first.png",
        "mass.csv",
        "mass.png",
        "run.json",
        "summary.csv",
        "viewer.html",
    ]
    for name in ("maps_answer.png", "mass.png"):
        picture = np.asarray(Image.open(results / name).convert("L"))
        assert picture.shape[0] > 300 and picture.std() > 10
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


def test_questions_are_about_one_object_and_answered_truly():
    asked, things = ask(samples(40), seed=0)
    assert len(asked) > 30 and {item.answer for item in asked} > {"red", "circle"}
    for item in asked:
        thing = things[item.name]
        told = thing.shape if "color is" in item.prompt else thing.color
        assert told in item.prompt and item.answer == (
            thing.color if "color is" in item.prompt else thing.shape
        )
        assert sum(told in (other.shape, other.color) for other in item.scene.things) == 1
    assert ask(samples(40), seed=0)[0] == asked and ask(samples(40), seed=1)[0] != asked
    twins = [
        replace(item, scene=replace(item.scene, things=item.scene.things[:1] * 2)) for item in samples(2)
    ]
    with pytest.raises(UserError, match="raise --examples"):
        ask(twins, seed=0)


def test_the_region_is_where_the_object_is_drawn():
    """Pixels that change when the object is taken away lie in its patches, but for a few."""
    for item in samples(12):
        for thing in item.scene.things:
            without = replace(
                item.scene, things=tuple(other for other in item.scene.things if other is not thing)
            )
            changed = (np.asarray(draw(item.scene)) != np.asarray(draw(without))).any(-1)
            per_patch = changed.reshape(8, 8, 8, 8).sum((1, 3)).ravel()
            inside = region(item.scene, thing, 8).numpy()
            assert (per_patch[~inside] < 4).all()
            assert per_patch[inside].sum() > 0.95 * per_patch.sum() and inside.sum() <= 16


def text(prompt=None) -> Text:
    """Two examples, padded on the left and on the right."""
    tokens = [["[PAD]", "a", "b", "c"], ["d", "e", "[PAD]", "[PAD]"]]
    padding = torch.tensor([[word == "[PAD]" for word in line] for line in tokens])
    return Text(tokens, torch.tensor([[0, 1, 2, 3], [4, 5, 0, 0]]), padding, padding, prompt)


def batch_of(written: Text) -> Batch:
    return Batch([Sample("one", None), Sample("two", None)], {}, written)


def sequence(n: int, image: torch.Tensor | str = "text") -> AttentionGraph:
    x = torch.zeros(2, 1, n, 1)
    return AttentionGraph(
        x, x, torch.ones(2, 1, n, n) / n, kind="self", query_modality=image, value_modality=image
    )


def test_positions_of_tokens():
    names, words, seeing = (
        ["one", "two"],
        words_of(batch_of(text()), sequence(4), 0),
        torch.ones(2, 4, dtype=torch.bool),
    )

    def positions(token, prompt=None, seeing=seeing):
        return views.positions(names, words, token, prompt, seeing).tolist()

    assert positions("first") == [1, 0] and positions("last") == [3, 1] and positions("1") == [2, 1]
    assert positions("answer", torch.tensor([3, 2])) == [2, 1]
    assert positions(
        "first", seeing=torch.tensor([[True, False, True, True], [False, True, True, True]])
    ) == [2, 1]
    with pytest.raises(UserError, match="--tokens 2: example two has tokens 0 to 1 only: d e$"):
        positions("2")
    with pytest.raises(UserError, match="not known; give numbers"):
        positions("answer")
    with pytest.raises(UserError, match="--tokens first: no token of example two sees the image"):
        positions("first", seeing=torch.tensor([[True] * 4, [False] * 4]))


def test_tokens_of_a_sequence_and_places_of_the_text():
    """Image nodes before the text: the nodes come later than the tokens."""
    image = torch.tensor([[True, True, False, False, False, False]] * 2)
    words = words_of(batch_of(text()), sequence(6, image), 0)
    assert views.positions(
        ["one", "two"], words, "last", None, torch.ones(2, 6, dtype=torch.bool)
    ).tolist() == [5, 3]
    assert words.node(torch.tensor([2, 0])).tolist() == [4, 2] and words.place(
        torch.tensor([4, 2])
    ).tolist() == [2, 0]


def test_the_score_is_the_logit_of_the_next_token_or_of_the_likeliest():
    logits = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))

    def score(place, **output):
        return views.score_at(batch_of(text()), torch.tensor(place), argparse.Namespace(**output)).tolist()

    assert score([1, 0], logits=logits) == [logits[0, 1, 2], logits[1, 0, 5]]
    assert score([3, 1], logits=logits) == [logits[0, 3].max(), logits[1, 1].max()]
    behind = torch.cat([torch.zeros(2, 3, 6), logits], 1)  # an image of three nodes comes before the text
    assert score([1, 0], logits=behind) == [logits[0, 1, 2], logits[1, 0, 5]]
    assert score([1, 0], logits=logits[:, 0]) == [logits[0, 0].max(), logits[1, 0].max()]  # of a classifier
    assert score([1, 0], logits_per_image=logits[0, :2, :2]) == [logits[0, 0, 0], logits[0, 1, 1]]
    for output in ({"logits": logits[:, :3]}, {"logits": None}, {}):
        with pytest.raises(views.NoScore):
            score([1, 0], **output)


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
    looked_at = source(*captioner)
    (batch,) = looked_at.batches()
    last = [graph for graph in capture(looked_at.model, batch.inputs).values() if graph.kind == "cross"][-1]
    row = last.weight[1, :, 1, 1:].mean(0)  # of [CLS], after which "a" is written
    found = maps[(maps["example"] == "1.png") & (maps["method"] == "raw") & (maps["query"] == "answer")]
    assert found.sort_values(["row", "column"])["share"].tolist() == pytest.approx(
        (row / row.sum()).tolist(), rel=1e-4
    )


def test_without_logits_there_is_no_gradient_map(captioner, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        VisionEncoderDecoderModel, "forward", without_logits(VisionEncoderDecoderModel.forward)
    )
    run(tmp_path, *captioner, "--batch", 1)
    maps = pd.read_csv(tmp_path / "maps.csv")
    assert set(maps["method"]) == {"raw", "rollout"} and set(maps["example"]) == {"0.png", "1.png"}
    told = "no gradient map: VisionEncoderDecoderModel (model) gives no logits for the tokens of its text"
    assert told in capsys.readouterr().out


def without_logits(forward):
    @wraps(forward)
    def run_without(*args, **kwargs):
        return BaseModelOutput(forward(*args, **kwargs).logits)

    return run_without


def test_an_adapted_model_shows_both_weights(tmp_path):
    """Whatever the backend of its messages: tiles never hold the weights that are differentiated."""
    summaries = []
    for backend in ("dense", "tiled"):
        adapter = tmp_path / f"adapter-{backend}"
        save_adapter(adapter, gnn="pgnn", join="replace", backend=backend)
        run(tmp_path / backend, "--adapter", adapter, "--examples", 4, "--pictures", 2)
        summaries.append(
            pd.read_csv(tmp_path / backend / "summary.csv").set_index(["method", "query"])["mass"]
        )
    one, other = summaries
    assert [method for method, query in one.index if query == "answer"] == [
        "raw M",
        "raw M\u0304",
        "rollout M",
        "rollout M\u0304",
        "gradient",
    ]
    assert abs(one["raw M", "answer"] - one["raw M\u0304", "answer"]) > 1e-3
    assert '"weights":["M","M\u0304"]' in (tmp_path / "dense" / "viewer.html").read_text(encoding="utf-8")
    pd.testing.assert_series_equal(one, other, rtol=1e-4)


def test_models_without_maps_are_refused(monkeypatch):
    """With nodes that are no tokens of the text, an image without [CLS], or image nodes in no grid."""
    written = batch_of(text())
    batch = replace(written, pictures=Pictures([Image.new("RGB", (8, 8))] * 2))
    looked_at = source()

    def graph(kind, n, m, values="image", queries="text"):
        features = torch.zeros(2, 1, n, 1), torch.zeros(2, 1, m, 1)
        return AttentionGraph(
            *features, torch.ones(2, 1, n, m) / m, kind=kind, query_modality=queries, value_modality=values
        )

    for found, message in (
        (graph("self", 4, 4, "text"), "nodes must be a square number of patches"),
        (graph("cross", 3, 9), "the query nodes of its last layer are not the tokens of the text"),
        (
            graph("self", 4, 4, "image", "image"),
            "neither a .CLS. node comes before the patches nor a probe looks at them",
        ),
        (
            graph("cross", 16, 4, "image", "image"),
            "neither a .CLS. node comes before the patches nor a probe",
        ),
        (graph("cross", 4, 24), "nodes must be a square number of patches"),
    ):
        monkeypatch.setattr(Source, "read", lambda *_, graph=found: {"layer": graph})
        with pytest.raises(UserError, match=f"^mini-BLIP.*{message}"):
            views.read_view(looked_at, batch, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "*layer.7*"], r"no layer is called '\*layer.7\*'; choose from vision_model"),
        (
            ["--layers", "*", "--heads", "4"],
            "vision_model.* has heads 0 to 3, not 4|crossattention.* has heads 0 to 3, not 4",
        ),
        (["--tokens", "40"], "--tokens 40: example .* has tokens 0 to .* only"),
        (["--tokens", "middle"], "--tokens middle: give first, answer, last, or the number"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, words, message):
    with pytest.raises(UserError, match=message) as error:
        run(tmp_path / "out", "--examples", 2, *words)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_layers_chosen_for_the_viewer_alone(tmp_path, capsys):
    """Those that don't lead to the image: raw attention is that of the model's last then."""
    run(tmp_path, "--examples", 2, "--layers", "*layer.1.attention.*", "vision_model*3*")
    assert f"raw attention is that of {CROSS.format(3)}" in capsys.readouterr().out
    page = (tmp_path / "viewer.html").read_text(encoding="utf-8")
    assert (
        '"text_decoder.bert.encoder.layer.1.attention.self"' in page
        and "vision_model.encoder.layers.3" in page
    )
    assert "crossattention" not in page


def test_only_a_run_with_the_same_settings_replaces_results(tmp_path):
    words = ("--examples", 2, "--pictures", 1, "--tokens", "first")
    run(tmp_path, *words)
    for name in ("notes.txt", "maps.txt"):
        (tmp_path / name).write_text("mine")
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    with pytest.raises(UserError, match="holds another experiment .other tokens.: give"):
        run(tmp_path, *words, "--tokens", "last")
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == before
    run(tmp_path, *words, "--batch", 1)
    after = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert {name for name in before if before[name] == after[name]} == {"notes.txt", "maps.txt"}


@pytest.mark.parametrize(
    ("family", "title"),
    [("vit", "the image's [CLS] node"), ("siglip", "the probe of the image's pooling head")],
)
def test_figures_say_who_looks(tmp_path, monkeypatch, family, title):
    drawn = []
    monkeypatch.setattr(views, "draw_maps", lambda *args: drawn.append(args[3]))
    (tmp_path / "texts.txt").write_text("a red ball\n")
    texts = ("--texts", tmp_path / "texts.txt") if family == "siglip" else ()
    folder = save(family, tmp_path / "model")
    run(tmp_path / "out", "--model", folder, "--images", *pictures(tmp_path / "p", "x.png"), *texts)
    assert drawn == [f"{type(load_family(folder).model).__name__} (model): where {title} looks"]


def test_figures_speak_of_answers_only_where_there_are_questions(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(views, "draw_maps", lambda *args: drawn.append(args[3]))
    run(tmp_path / "out", "--images", *pictures(tmp_path / "p", "x.png"), "--tokens", "answer")
    run(tmp_path / "asked", "--examples", 1, "--tokens", "answer")
    titles = ("the token before the text", "the token before the answer")
    assert drawn == [f"mini-BLIP: where {who} looks" for who in titles]


def test_a_question_that_the_encoder_reads_stands_before_what_the_decoder_writes(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(views, "draw_maps", lambda *args: drawn.extend(args[1].values()))
    run(tmp_path / "asked", "--model", "mini-mplug", "--examples", 1, "--tokens", "answer")
    run(tmp_path / "said", "--model", "mini-mplug", "--examples", 1, "--tokens", "last", "--task", "caption")
    asked, said = (words for _, words in drawn)
    assert re.fullmatch(r"\[CLS\] what [a-z ]+ \? → \[CLS\] [a-z]+ \[SEP\]", asked)
    assert re.fullmatch(r"\[CLS\] [^→]+ \[SEP\]", said)  # pictures go to the decoder directly


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
