"""Caption metrics: pycocoevalcap's numbers, and the statistics that give them for any resample."""

import shutil
import warnings

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider

from attngraph.errors import UserError
from attngraph.experiments.metrics import captions
from attngraph.experiments.metrics.captions import bleu4_from_counts, caption_scores

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Java not found")


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
    predictions["i3"], predictions["i7"] = "", "nothing in common"
    scores = caption_scores(predictions, references, use_java=False)
    generated = {id: [text] for id, text in predictions.items()}
    assert capfd.readouterr() == ("", "")
    assert scores.bleu4 == Bleu(4).compute_score(references, generated, verbose=0)[0][3]
    cider, each = Cider().compute_score(references, generated)
    assert scores.cider == cider and np.array_equal(scores.cider_examples, each)


def test_bleu_from_counts_equals_the_corpus_bleu_of_any_resample():
    predictions, references = corpus(30)
    predictions["i3"], predictions["i7"] = "", "nothing in common"
    counts = caption_scores(predictions, references, use_java=False).bleu_counts
    assert counts.shape == (30, 10)
    rng, ids, sums = np.random.default_rng(1), list(references), []
    for size in (30, 30, 30, 3, 1):
        picks = rng.integers(30, size=size)
        accepted = {k: references[ids[i]] for k, i in enumerate(picks)}
        generated = {k: [predictions[ids[i]]] for k, i in enumerate(picks)}
        expected = Bleu(4).compute_score(accepted, generated, verbose=0)[0][3]
        sums.append(counts[picks].sum(axis=0))
        assert bleu4_from_counts(sums[-1]) == pytest.approx(expected, rel=1e-13)
    assert bleu4_from_counts(np.stack(sums)).tolist() == [bleu4_from_counts(each) for each in sums]


def test_perfect_and_empty_captions():
    _, references = corpus(8)
    copied = {id: options[2] for id, options in references.items()}
    perfect = caption_scores(copied, references, use_java=False)
    assert perfect.bleu4 == pytest.approx(1.0) and perfect.cider > 2
    empty = caption_scores(dict.fromkeys(references, ""), references, use_java=False)
    assert empty.bleu4 == pytest.approx(0.0, abs=1e-12) and empty.cider == 0
    assert np.isfinite(bleu4_from_counts(empty.bleu_counts.sum(axis=0)))
    with pytest.raises(UserError, match="punctuation only"):
        caption_scores({"1": "a"}, {"1": ["!"]}, use_java=False)


def test_of_two_equally_close_references_the_shorter_counts():
    references = {"1": ["a b c", "a b c d e"], "2": ["a dog runs home"]}
    counts = caption_scores({"1": "a b c d", "2": "a dog runs"}, references, use_java=False).bleu_counts
    assert counts[:, 8:].tolist() == [[4, 3], [3, 4]]


def test_one_warning_without_java(monkeypatch):
    monkeypatch.setattr(captions.shutil, "which", lambda name: None)
    with pytest.warns(UserWarning, match="Java not found") as caught:
        assert caption_scores(*corpus(3)).tokenizer == "PTB tokenizer (Python)"
    assert len(caught) == 1


@needs_java
def test_java_is_used_when_it_is_there_and_agrees(capfd):
    predictions, references = corpus(20)
    predictions["i0"] = predictions["i19"] = ""  # an empty first or last line must not shift the others
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        official = caption_scores(predictions, references)
    plain = caption_scores(predictions, references, use_java=False)
    assert official.tokenizer == "PTB tokenizer (Java)" and capfd.readouterr() == ("", "")
    assert (official.bleu4, official.cider) == (plain.bleu4, plain.cider)
    assert np.array_equal(official.bleu_counts, plain.bleu_counts)
