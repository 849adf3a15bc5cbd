"""Parts of speech by spaCy, with a small pipeline that is trained here."""

import argparse

import pytest
import torch

from attngraph.errors import UserError
from experiments.inspect.labeller import Labeller
from experiments.inspect.options import add_source_arguments, open_source
from experiments.inspect.tagger import UNIVERSAL, Tagger
from tests.experiments.tiny import save

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


def test_pieces_have_the_part_of_their_word(pipeline, tmp_path):
    (tmp_path / "texts.txt").write_text("a red ball\nred stars\nstars ball red\n")
    parser = argparse.ArgumentParser()
    add_source_arguments(parser)
    words = ["--model", str(save("bert", tmp_path / "bert")), "--texts", str(tmp_path / "texts.txt")]
    ((batch, graphs),) = open_source(parser.parse_args(words)).graphs()
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
    with pytest.raises(UserError, match="--tagger nowhere cannot be loaded .* spacy download") as error:
        Tagger("nowhere")
    assert "\n" not in str(error.value)
