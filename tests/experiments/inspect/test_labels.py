"""Which words and patches the nodes of graphs are, and their classes, in every kind of model."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import ViTImageProcessor

from attngraph import AttentionGraph
from attngraph.errors import UserError
from experiments.inspect import labels
from experiments.inspect.labels import UNIVERSAL, UNTAGGED, Labeller, Tagger, read_own_classes
from experiments.inspect.words import patches_of, whole_words, word_spans, words_of
from experiments.models.batch import Batch, Sample, Text
from experiments.scenes.drawing import patch_targets
from experiments.scenes.scene import scenes
from experiments.scenes.words import PARTS, all_words, parts_of_speech
from tests.experiments.inspect.looking import pictures, source
from tests.experiments.tiny import captioner, save, tokenizer


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Two pictures and two texts, as options."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "texts.txt").write_text("red\na red ball\n")
    return {
        "images": ("--images", *pictures(folder, "0.png", "1.png", size=(12, 8))),
        "texts": ("--texts", folder / "texts.txt"),
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folders = {}

    def one(family):
        if family not in folders:
            folders[family] = save(family, tmp_path_factory.mktemp(family))
        return folders[family]

    return one


@pytest.mark.parametrize(("family", "start"), [("t5", "[PAD]"), ("bart", "[CLS]")])
def test_a_decoder_has_its_own_words(family, start, saved, given):
    ((batch, graphs),) = source("--model", saved(family), *given["texts"]).graphs()
    encoder, decoder = ["[CLS]", "a", "red", "ball", "[SEP]"], [start, "[CLS]", "a", "red", "ball"]
    assert len(graphs) == 6
    for name, graph in graphs.items():
        cross = graph.kind == "cross"
        query, value = (words_of(batch, graph, side) for side in (0, 1))
        assert query.tokens[1].tolist() == (decoder if graph.causal else encoder)
        assert value.tokens[1].tolist() == (encoder if cross or not graph.causal else decoder)
        labels = Labeller({}, 2, 0)(batch, name, graph)
        assert labels["token"].query[1, 0].tolist() == query.token_ids[1].tolist()
        assert labels["special or word"].query[1, 0].tolist() == (
            [2, 2, 0, 0, 0] if graph.causal else [2, 0, 0, 0, 2]
        )
    assert batch.written.prompt.tolist() == [2, 2]


def test_a_captioner_writes_its_text_in_the_decoder(saved, given, tmp_path):
    (batch,) = source("--model", saved("captioner"), *given["images"], *given["texts"]).batches()
    assert (
        batch.text is None
        and batch.pictures.grids == [(2, 3)] * 2
        and batch.pictures.images[0].size == (12, 8)
    )
    assert batch.decoder.tokens[1] == ["[CLS]", "[CLS]", "a", "red", "ball"] and "labels" not in batch.inputs
    assert batch.written.prompt.tolist() == [2, 2]
    (batch,) = source("--model", saved("captioner"), "--examples", 2, "--task", "vqa").batches()
    assert (batch.decoder.prompt > 4).all()
    apart = tmp_path / "apart"  # without a processor that holds both
    for part in (captioner(), ViTImageProcessor(size={"height": 8, "width": 12}), tokenizer()):
        part.save_pretrained(apart)
    (batch,) = source("--model", apart, *given["images"], *given["texts"]).batches()
    assert batch.decoder.tokens[1] == ["[CLS]", "[CLS]", "a", "red", "ball"] and batch.inputs[
        "pixel_values"
    ].shape[2:] == (8, 12)


def test_sequences_of_text_and_image_are_labelled_by_place(saved, given):
    ((batch, graphs),) = source("--model", saved("llava"), *given["images"], *given["texts"]).graphs()
    graph = graphs["model.language_model.layers.0.self_attn"]
    words = words_of(batch, graph, 0)
    assert words.tokens[1].tolist() == ["[CLS]", *[""] * 4, "a", "red", "ball", "[SEP]"]
    assert words.is_token[1].tolist() == [True] + [False] * 4 + [True] * 4 and not words.special[1, 1:5].any()
    labels = Labeller({"mine": {"ball": "x"}}, 2, 0)(batch, "layer", graph)
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
    ((batch, _),) = source(
        "--model", saved("clip"), *given["images"], "--texts", tmp_path / "long.txt"
    ).graphs()
    assert batch.text.token_ids.shape == (2, 32)
    (batch,) = source(
        "--model", saved("captioner"), *given["images"], "--texts", tmp_path / "long.txt"
    ).batches()
    assert batch.decoder.token_ids.shape == (2, 32)
    with pytest.raises(
        UserError, match="text of 0.png has 156 tokens with its image, and .* at most 64: give a shorter text"
    ):
        list(source("--model", saved("llava"), *given["images"], "--texts", tmp_path / "long.txt").batches())


def test_words_without_marks_and_no_pieces():
    def whole(pieces, *line, special=()):
        return whole_words(line, [token in special for token in line], pieces)

    assert whole("##", "[CLS]", "red", "star", "##s", "ball", special=("[CLS]",)) == [
        "[CLS]",
        "red",
        "",
        "",
        "ball",
    ]
    assert whole("Ġ", "hund", "red", "Ġred", "Ġstar", "s", ",", "red", "Ġ") == [
        "",
        "",
        "red",
        "",
        "",
        ",",
        "red",
        "",
    ]
    assert whole("Ġ", "assistant", "Ċ", "red", "Ġna", "Ã¯", "ve", "ĠcafÃ©") == [
        "assistant",
        "",
        "red",
        "",
        "",
        "",
        "café",
    ]
    assert whole("▁", "▁", "a", "▁dog", "▁", "▁") == ["", "a", "dog", "", ""]  # a blank of its own is no word
    assert whole("▁", "▁A", "▁red", "▁hund", "red", "</s>", special=("</s>",)) == ["A", "red", "", "", "</s>"]
    assert whole("</w>", "<|start|>", "red</w>", "hund", "red</w>", "ball</w>", special=("<|start|>",)) == [
        "<|start|>",
        "red",
        "",
        "",
        "ball",
    ]
    assert whole("▁", "hund", "red") == [
        "",
        "",
    ]  # one word without a mark: the vocabulary tells, not the line
    spans = word_spans(
        ["[CLS]", "star", "##s", "##es", "[SEP]", "##s"], [True, False, False, False, True, False], "##"
    )
    assert spans == [(range(1, 4), "starses"), (range(5, 6), "s")]
    halves = word_spans(
        ["Ġcaf", "Ã", "©", "Ġ!", "Ċ", "Ġ", "x"], [False] * 7, "Ġ"
    )  # a letter of two bytes in two tokens
    assert halves == [(range(0, 3), "café"), (range(3, 4), "!"), (range(6, 7), "x")]


@pytest.mark.parametrize(
    ("tokenizer", "pieces"), [("bert", "##"), ("gpt2", "Ġ"), ("t5", "▁"), ("clip", "</w>")]
)
def test_a_vocabulary_tells_what_it_marks(tokenizer, pieces):
    marks = {"bert": ["a", "a"], "gpt2": ["a", "Ġa"], "t5": ["▁a", "▁a"], "clip": ["a</w>", "a</w>"]}[
        tokenizer
    ]
    told = SimpleNamespace(
        all_special_ids=[0], tokenize=lambda _: marks, convert_ids_to_tokens=lambda row: ["a"] * len(row)
    )
    assert Text.of(told, torch.tensor([[1, 2]]), None).pieces == pieces


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


def test_every_word_has_a_part_of_speech():
    assert set(parts_of_speech()) == set(all_words()) and set(parts_of_speech().values()) == set(PARTS)


def test_classes_of_ones_own(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"ball": "noun", "a": 7}', encoding="utf-8-sig")
    assert read_own_classes([file]) == {"mine": {"ball": "noun", "a": "7"}}
    for text, message in (
        ("[1, 2]", "valid dictionary; give a JSON file"),
        ("{}", "it is empty; give"),
        ('{"ball": "noun", "a": "x", "ball": "verb"}', "'ball' occurs twice: leave one of them"),
        ('{"ball": ""}', "ball: .*pattern"),
        ('{"ball": true}', "ball: .*valid string"),
        ('{"": "noun"}', "'': .*at least 1 character"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=f"--labels {file}: .*{message}"):
            read_own_classes([file])
    for names, message in (
        (["cluster.json"], "'cluster' is the name of labels that are there already"),
        (["part of speech and patch.json"], "is the name of labels that are there already"),
        (["one/mine.json", "other/mine.json"], "two files are called 'mine'"),
    ):
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(json.dumps({"a": "x"}))
        with pytest.raises(UserError, match=message):
            read_own_classes([tmp_path / name for name in names])


# ---- parts of speech by spaCy, with a small pipeline that is trained here ---------------------------------


SENTENCES = [
    ("a red ball", "DET ADJ NOUN"),
    ("red stars", "ADJ NOUN"),
    ("a ball", "DET NOUN"),
    ("stars ball red", "NOUN VERB ADV"),
]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    spacy = pytest.importorskip("spacy")
    from spacy.tokens import Doc
    from spacy.training import Example

    nlp = spacy.blank("en")
    nlp.add_pipe("morphologizer")
    examples = [
        Example(Doc(nlp.vocab, words=text.split()), Doc(nlp.vocab, words=text.split(), pos=tags.split()))
        for text, tags in SENTENCES
    ]
    nlp.initialize(lambda: examples)
    for _ in range(40):
        nlp.update(examples)
    folder = tmp_path_factory.mktemp("pipeline")
    nlp.to_disk(folder)
    return folder


def test_a_word_has_its_part_in_its_sentence(pipeline):
    tagger = Tagger(str(pipeline))
    assert [" ".join(tagger(text.split())) for text, _ in SENTENCES] == [tags for _, tags in SENTENCES]
    assert tagger([]) == []


def test_pieces_have_the_part_of_their_word(pipeline, saved, tmp_path):
    (tmp_path / "texts.txt").write_text("a red ball\nred stars\nstars ball red\n")
    ((batch, graphs),) = source("--model", saved("bert"), "--texts", tmp_path / "texts.txt").graphs()
    name, graph = next(iter(graphs.items()))
    labels = Labeller({}, 0, 0, Tagger(str(pipeline)))(batch, name, graph)["part of speech"]
    parts = [[UNIVERSAL[k] if k >= 0 else "" for k in line] for line in labels.query[:, 0].tolist()]
    assert batch.text.tokens[1] == ["[CLS]", "red", "star", "##s", "[SEP]", "[PAD]"]
    assert parts == [
        ["", "DET", "ADJ", "NOUN", "", ""],
        ["", "ADJ", "NOUN", "NOUN", "", ""],
        ["", "NOUN", "NOUN", "VERB", "ADV", ""],
    ]
    assert torch.equal(labels.query, labels.value)


def test_no_pipeline_is_one_line(tmp_path):
    pytest.importorskip("spacy")
    with pytest.raises(UserError, match="--labels spacy:nowhere cannot be loaded .* spacy download") as error:
        Tagger("nowhere")
    assert "\n" not in str(error.value)
