"""BLEU@4 and CIDEr: pycocoevalcap's numbers, the counts behind BLEU, and the two tokenizers."""

import os
import shutil
import warnings

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.tokenizer import ptbtokenizer

from attngraph.errors import UserError
from experiments.metrics import captions
from experiments.metrics.captions import bleu4_from_counts, caption_scores, ptb_tokenize, regex_tokenize

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Java not found")

PLAIN = [
    "a red circle is above the blue square .",
    "Two small green triangles",
    "there are 3 shapes, one of them red",
    "A man's dog doesn't like 3.5 t-shirts; really!",
    "i can't and won't, they've gone",
    "",
    "...",
    "well-known red-and-white 1,000 things",
    "two  spaces\nand a line",
    "\u2028 odd",
]


def corpus(count, seed=0):
    rng = np.random.default_rng(seed)
    words = "a red blue circle square above below the two three is and of left".split()

    def caption():
        return " ".join(rng.choice(words, size=rng.integers(4, 12)))

    references = {f"i{k}": [caption() for _ in range(5)] for k in range(count)}
    predictions = {}
    for id, options in references.items():  # a reference with some words changed
        predictions[id] = " ".join(rng.choice(words) if rng.random() < 0.3 else w for w in options[0].split())
    return predictions, references


def test_scores_are_those_of_pycocoevalcap_and_nothing_is_printed(capfd):
    predictions, references = corpus(40)
    scores = caption_scores(predictions, references, use_java=False)
    found = {id: [text] for id, text in predictions.items()}
    assert capfd.readouterr() == ("", "")
    assert scores.bleu4 == Bleu(4).compute_score(references, found, verbose=0)[0][3]
    cider, each = Cider().compute_score(references, found)
    assert scores.cider == cider and np.array_equal(scores.cider_examples, each)
    assert scores.ids == tuple(references) and scores.bleu_counts.shape == (40, 10)


def test_bleu_from_counts_equals_the_corpus_bleu_of_any_resample():
    predictions, references = corpus(30)
    counts = caption_scores(predictions, references, use_java=False).bleu_counts
    rng = np.random.default_rng(1)
    for size in (30, 30, 30, 3, 1):
        picks = rng.integers(30, size=size)
        ids = list(references)
        wanted = {k: references[ids[i]] for k, i in enumerate(picks)}
        found = {k: [predictions[ids[i]]] for k, i in enumerate(picks)}
        expected = Bleu(4).compute_score(wanted, found, verbose=0)[0][3]
        assert bleu4_from_counts(counts[picks].sum(axis=0)) == pytest.approx(expected, rel=1e-13)


def test_bleu_from_counts_is_vectorised():
    predictions, references = corpus(10)
    counts = caption_scores(predictions, references, use_java=False).bleu_counts
    assert bleu4_from_counts(np.stack([counts, counts[::-1]]).sum(axis=1)).shape == (2,)


def test_perfect_and_empty_captions():
    _, references = corpus(8)
    copied = {id: options[2] for id, options in references.items()}
    perfect = caption_scores(copied, references, use_java=False)
    assert perfect.bleu4 == pytest.approx(1.0) and perfect.cider > 2
    empty = caption_scores(dict.fromkeys(references, ""), references, use_java=False)
    assert empty.bleu4 == pytest.approx(0.0, abs=1e-12) and empty.cider == 0
    assert np.isfinite(bleu4_from_counts(empty.bleu_counts.sum(axis=0)))


@pytest.mark.parametrize(
    "predictions, references, message",
    [
        ({}, {"1": ["a dog"]}, "no prediction"),
        ({"1": "a", "2": "b"}, {"1": ["a dog"]}, "first 2"),
        ({"1": "a"}, {"1": []}, "example 1"),
        ({"1": "a"}, {"1": "a dog"}, "example 1"),
        ({"1": "a"}, {"1": ["!"]}, "punctuation"),
        ({}, {}, "nothing to score"),
    ],
)
def test_bad_input(predictions, references, message):
    with pytest.raises(UserError, match=message):
        caption_scores(predictions, references, use_java=False)


def test_one_warning_without_java(monkeypatch):
    monkeypatch.setattr(captions.shutil, "which", lambda name: None)
    predictions, references = corpus(3)
    with pytest.warns(UserWarning, match="Java not found") as caught:
        assert caption_scores(predictions, references).tokenizer == "regex"
    assert len(caught) == 1


def test_java_that_does_not_start(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="use_java=False"):
        ptb_tokenize(["a dog"])


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
def test_java_that_fails(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'no class here' >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UserError, match="no class here"):
        ptb_tokenize(["a dog"])


@needs_java
def test_tokenizers_agree_on_plain_captions():
    assert ptb_tokenize(PLAIN) == regex_tokenize(PLAIN)
    assert regex_tokenize(["A dog's ball."]) == ["a dog 's ball"]


@needs_java
def test_ptb_is_used_when_java_is_there_and_agrees(capfd):
    predictions, references = corpus(20)
    predictions["i0"] = predictions["i19"] = ""  # an empty first or last line must not shift the others
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        official = caption_scores(predictions, references)
    plain = caption_scores(predictions, references, use_java=False)
    assert official.tokenizer == "ptb" and capfd.readouterr() == ("", "")
    assert (official.bleu4, official.cider) == (plain.bleu4, plain.cider)
    assert np.array_equal(official.bleu_counts, plain.bleu_counts)


@needs_java
def test_ptb_needs_no_right_to_write_beside_its_jar(monkeypatch):
    installed = os.path.dirname(ptbtokenizer.__file__)
    folders, real = [], ptbtokenizer.tempfile.NamedTemporaryFile

    def record(*args, dir, **kwargs):
        folders.append(dir)
        return real(*args, dir=dir, **kwargs)

    monkeypatch.setattr(ptbtokenizer.tempfile, "NamedTemporaryFile", record)
    assert ptb_tokenize(["A dog."]) == ["a dog"]
    assert folders and installed not in folders
    assert os.path.dirname(ptbtokenizer.__file__) == installed  # put back


def test_of_two_equally_close_references_the_shorter_counts():
    references = {"1": ["a b c", "a b c d e"], "2": ["a dog runs home"]}
    counts = caption_scores({"1": "a b c d", "2": "a dog runs"}, references, use_java=False).bleu_counts
    assert counts[:, 8:].tolist() == [[4, 3], [3, 4]]
