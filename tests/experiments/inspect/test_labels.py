"""Which words and patches the nodes of graphs are, and their classes, in every kind of model."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from attngraph import AttentionGraph
from attngraph.errors import UserError
from attngraph.experiments.inspect import labels
from attngraph.experiments.inspect.labels import UNIVERSAL, UNTAGGED, Labeller, load_tagger, read_own_classes
from attngraph.experiments.inspect.words import ROTATED, patches_of, whole_words, word_spans, words_of
from attngraph.experiments.models.batch import Batch, Sample, Text, pieces_of
from attngraph.experiments.scenes.drawing import patch_targets
from attngraph.experiments.scenes.scene import scenes
from tests.experiments.inspect.looking import source


def test_windows_are_those_of_images_of_one_size_only():
    """Packed patches of several sizes have windows in different numbers, and so have tiles."""
    windows = SimpleNamespace(shape=(8, 1, 4, 4, 2))
    for pixels, examples in (
        (torch.ones(2, 3, 8, 8), 2),
        (torch.ones(2, 4, 3, 8, 8), None),
        (torch.ones(80, 9), None),
    ):
        batch = SimpleNamespace(samples=[0, 1], inputs={"pixel_values": pixels})
        assert labels.examples_of(batch, windows) == examples
        assert labels.examples_of(batch, SimpleNamespace(shape=(2, 1, 4, 4, 2))) == 2


def test_a_decoder_has_its_own_words(saved, given):
    ((batch, graphs),) = source("--model", saved("t5"), *given["texts"]).graphs()
    encoder, decoder = ["[CLS]", "a", "red", "ball", "[SEP]"], ["[PAD]", "[CLS]", "a", "red", "ball"]
    for name, graph in graphs.items():
        cross = graph.kind == "cross"
        query, value = (words_of(batch, graph, side) for side in (0, 1))
        assert query.tokens[1].tolist() == (decoder if graph.causal else encoder)
        assert value.tokens[1].tolist() == (encoder if cross or not graph.causal else decoder)
        labels = Labeller({}, 0, 0)(batch, name, graph)
        assert labels["token"].query[1, 0].tolist() == query.token_ids[1].tolist()
        special = [2, 2, 0, 0, 0] if graph.causal else [2, 0, 0, 0, 2]
        assert labels["special or word"].query[1, 0].tolist() == special
    assert batch.written.prompt.tolist() == [2, 2]


def test_a_captioner_writes_its_text_in_the_decoder(saved, given):
    (batch,) = source("--model", saved("captioner"), *given["images"], *given["texts"]).batches()
    assert batch.text is None and batch.pictures.grids == [(2, 3)] * 2
    assert batch.pictures.images[0].size == (12, 8) and "labels" not in batch.inputs
    assert batch.decoder.tokens[1] == ["[CLS]", "[CLS]", "a", "red", "ball"]
    assert batch.written.prompt.tolist() == [2, 2]
    (batch,) = source("--model", saved("captioner"), "--examples", 2, "--task", "vqa").batches()
    assert (batch.decoder.prompt > 4).all()


def test_sequences_of_text_and_image_are_labelled_by_place(saved, given):
    ((batch, graphs),) = source("--model", saved("llava"), *given["images"], *given["texts"]).graphs()
    graph = graphs["model.language_model.layers.0.self_attn"]
    words = words_of(batch, graph, 0)
    assert words.tokens[1].tolist() == ["[CLS]", *[""] * 4, "a", "red", "ball", "[SEP]"]
    assert words.is_token[1].tolist() == [True] + [False] * 4 + [True] * 4 and not words.special[1, 1:5].any()
    labels = Labeller({"mine": {"ball": "x"}}, 0, 0)(batch, "layer", graph)
    assert labels["modality"].query[1, 0].tolist() == [2, 1, 1, 1, 1, 0, 0, 0, 2]
    assert labels["token"].query[1, 0].tolist() == [2, -1, -1, -1, -1, 5, 6, 7, 3]
    assert labels["mine"].query[1, 0].tolist() == [-1] * 7 + [0, -1]


def test_patches_come_from_the_configuration(saved):
    ((batch, graphs),) = source("--model", saved("clip"), "--examples", 2).graphs()
    assert batch.pictures.grids == [(2, 2)] * 2
    expected = patch_targets(batch.scenes[1], 2)[0].tolist()
    graph = graphs["vision_model.encoder.layers.0.self_attn"]
    assert patches_of(batch, graph, 0)[1].tolist() == [-1, *expected]
    assert Labeller({}, 2, 0)(batch, "layer", graph)["patch"].value[1, 0, 1:].tolist() == expected
    assert patches_of(batch, graphs["text_model.encoder.layers.0.self_attn"], 0) is None
    ((batch, graphs),) = source("--model", saved("llava"), "--examples", 2).graphs()
    shown = patches_of(batch, graphs["model.language_model.layers.0.self_attn"], 0)
    assert shown[1].tolist()[:6] == [-1, *patch_targets(batch.scenes[1], 2)[0].tolist(), -1]


def test_a_text_too_long_is_cut_or_refused(saved, given, tmp_path):
    (tmp_path / "long.txt").write_text("a red ball " * 50)
    words = (*given["images"], "--texts", tmp_path / "long.txt")
    (batch,) = source("--model", saved("clip"), *words).batches()
    assert batch.text.token_ids.shape == (2, 32)
    with pytest.raises(UserError, match="text of 0.png has 156 tokens with its image, and .* at most 64"):
        list(source("--model", saved("llava"), *words).batches())


@pytest.mark.parametrize(
    ("pieces", "line", "whole"),
    [
        ("##", "[CLS] red star ##s ball", "[CLS] red _ _ ball"),
        ("Ġ", "hund red Ġred Ġstar s , red Ġ", "_ _ red _ _ , red _"),
        ("Ġ", "assistant Ċ red Ġna Ã¯ ve ĠcafÃ©", "assistant _ red _ _ _ café"),
        ("▁", "▁ a ▁dog ▁hund red ▁ [SEP]", "_ a dog _ _ _ [SEP]"),  # a blank by itself is not a word
        ("</w>", "[CLS] red</w> hund red</w> ball</w>", "[CLS] red _ _ ball"),
        ("▁", "hund red", "_ _"),  # one word without a mark: the vocabulary tells, not the line
    ],
)
def test_words_without_marks_and_no_pieces(pieces, line, whole):
    tokens = line.split(" ")
    found = whole_words(tokens, [token in ("[CLS]", "[SEP]") for token in tokens], pieces)
    assert [word or "_" for word in found] == whole.split(" ")


def test_spans_of_words():
    apart = [True, False, False, False, True, False]
    spans = word_spans(["[CLS]", "star", "##s", "##es", "[SEP]", "##s"], apart, "##")
    assert spans == [(range(1, 4), "starses"), (range(5, 6), "s")]


def test_a_vocabulary_tells_what_it_marks():
    for marks, pieces in (("a a", "##"), ("a Ġa", "Ġ"), ("▁a ▁a", "▁"), ("a</w> a</w>", "</w>")):
        assert pieces_of(SimpleNamespace(tokenize=lambda _, marks=marks: marks.split())) == pieces


def test_classes_of_marked_words():
    tokens = [["<s>", "Ġred", "ĠCircle", "s", "Ġhund", "red"]]
    text = Text(
        tokens,
        torch.arange(6)[None],
        torch.tensor([[True] + [False] * 5]),
        torch.zeros(1, 6, dtype=torch.bool),
        pieces="Ġ",
    )
    x = torch.zeros(1, 1, 6, 2)
    graph = AttentionGraph(
        x, x, torch.full((1, 1, 6, 6), 1 / 6), kind="self", query_modality="text", value_modality="text"
    )
    (scene,) = scenes("test", 1, 0, "downstream")
    labeller = Labeller({"mine": {"red": "y", "s": "x"}}, 2, 0)
    found = labeller(Batch([Sample("one", None, scene=scene)], {}, text), "layer", graph)
    assert labeller.notes() == []
    ordinary = labeller(Batch([Sample("one", None)], {}, text), "layer", graph)
    assert set(found) - set(ordinary) == {"part of speech"} and labeller.notes() == [UNTAGGED]
    labeller(Batch([Sample("one", None)], {}, text), "layer", replace(graph, rotated=True))
    assert labeller.notes()[1:] == [f"layer: {ROTATED}"]
    part = found["part of speech"].query[0, 0].tolist()
    assert part[1] >= 0 and part[4:] == [-1, -1] and part[3] == -1
    assert found["mine"].query[0, 0].tolist() == [-1, 1, -1, 0, -1, 1]  # the token "red" itself is listed


def test_labels_are_those_of_the_nodes(monkeypatch):
    """Words of shapes meet patches of shapes in one alphabet; other words have no class."""
    x, image = torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 3, 2)
    graph = AttentionGraph(
        x, image, torch.full((1, 1, 4, 3), 1 / 3), kind="cross", query_modality="text", value_modality="image"
    )
    text = Text(
        [["[CLS]", "red", "stars", "circle"]],
        torch.arange(4)[None],
        torch.tensor([[True] + [False] * 3]),
        torch.zeros(1, 4, dtype=torch.bool),
    )
    monkeypatch.setattr(
        labels, "patches_of", lambda batch, graph, side: torch.tensor([[-1, 0, 1]]) if side else None
    )
    batch = Batch([Sample("one", None)], {}, text)
    found = Labeller({"mine": {"red": "7"}}, 2, 0)(batch, "layer", graph)
    assert found["named shape"].query.tolist() == [[[-1, -1, 4, 1]]] and found[
        "named shape"
    ].value.tolist() == [[[-1, 0, 1]]]
    mine = found["mine and patch"]
    assert mine.query.tolist() == [[[-1, 0, -1, -1]]] and not mine.shared and "cluster" in found
    assert found["modality"].query.tolist() == [[[2, 0, 0, 0]]]


def test_classes_of_ones_own(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"ball": "noun", "a": 7}', encoding="utf-8-sig")
    assert read_own_classes([file]) == {"mine": {"ball": "noun", "a": "7"}}
    for text, message in (("[1, 2]", "use a JSON file"), ('{"ball": ""}', "field ball: .*pattern")):
        file.write_text(text)
        with pytest.raises(UserError, match=f"{file}: .*{message}"):
            read_own_classes([file])
    file.write_text('{"a": "x"}')
    for names in (["cluster.json"], ["part of speech and patch.json"], ["mine.json", "other/mine.json"]):
        with pytest.raises(UserError, match="labels named .* already exist: rename the file"):
            read_own_classes([tmp_path / name for name in names])


# ---- parts of speech by spaCy, with a pipeline of rules ---------------------------------------------------


SENTENCES = [
    ("a red ball", "DET ADJ NOUN"),
    ("red stars", "ADJ NOUN"),
    ("stars ball red", "NOUN VERB ADV"),
]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("attribute_ruler")
    for text, tags in SENTENCES:
        pattern = [{"LOWER": word} for word in text.split()]
        for place, tag in enumerate(tags.split()):
            ruler.add(patterns=[pattern], attrs={"POS": tag}, index=place)
    folder = tmp_path_factory.mktemp("pipeline")
    nlp.to_disk(folder)
    return folder


def test_pieces_have_the_part_of_their_word(pipeline, saved, tmp_path):
    (tmp_path / "texts.txt").write_text("a red ball\nred stars\nstars ball red\n")
    ((batch, graphs),) = source("--model", saved("bert"), "--texts", tmp_path / "texts.txt").graphs()
    name, graph = next(iter(graphs.items()))
    labels = Labeller({}, 0, 0, load_tagger(str(pipeline)))(batch, name, graph)["part of speech"]
    parts = [[UNIVERSAL[k] if k >= 0 else "" for k in line] for line in labels.query[:, 0].tolist()]
    assert batch.text.tokens[1] == ["[CLS]", "red", "star", "##s", "[SEP]", "[PAD]"]
    assert parts == [
        ["", "DET", "ADJ", "NOUN", "", ""],
        ["", "ADJ", "NOUN", "NOUN", "", ""],
        ["", "NOUN", "NOUN", "VERB", "ADV", ""],
    ]
    assert torch.equal(labels.query, labels.value)


def test_no_pipeline_is_one_line():
    pytest.importorskip("spacy")
    with pytest.raises(UserError, match="--labels spacy:nowhere cannot be loaded .* spacy download"):
        load_tagger("nowhere")
