"""Caption metrics: pycocoevalcap's numbers, and the statistics that give them for any resample."""

import shutil
import warnings

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge

from attngraph.errors import UserError
from experiments.metrics import java_metrics, tokenizers
from experiments.metrics.captions import METRICS, bleu4_from_counts, caption_scores

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
    scores = caption_scores(predictions, references, use_java=False)
    generated = {id: [text] for id, text in predictions.items()}
    assert capfd.readouterr() == ("", "")
    assert scores.bleu4 == Bleu(4).compute_score(references, generated, verbose=0)[0][3]
    cider, each = Cider().compute_score(references, generated)
    assert scores.cider == cider and np.array_equal(scores.cider_examples, each)
    assert scores.ids == tuple(references) and scores.bleu_counts.shape == (40, 10)


def test_bleu_from_counts_equals_the_corpus_bleu_of_any_resample():
    predictions, references = corpus(30)
    counts = caption_scores(predictions, references, use_java=False).bleu_counts
    rng = np.random.default_rng(1)
    for size in (30, 30, 30, 3, 1):
        picks = rng.integers(30, size=size)
        ids = list(references)
        accepted = {k: references[ids[i]] for k, i in enumerate(picks)}
        generated = {k: [predictions[ids[i]]] for k, i in enumerate(picks)}
        expected = Bleu(4).compute_score(accepted, generated, verbose=0)[0][3]
        assert bleu4_from_counts(counts[picks].sum(axis=0)) == pytest.approx(expected, rel=1e-13)


def test_bleu_from_counts_is_vectorised():
    predictions, references = corpus(10)
    counts = caption_scores(predictions, references, use_java=False).bleu_counts
    halves = np.stack([counts[:5].sum(axis=0), counts[5:].sum(axis=0)])
    assert bleu4_from_counts(halves).tolist() == [bleu4_from_counts(half) for half in halves]
    assert bleu4_from_counts(halves)[0] != bleu4_from_counts(halves)[1]


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
        ({"1": "a"}, {"1": []}, "example 1"),
        ({"1": "a"}, {"1": "a dog"}, "example 1"),
        ({"1": "a"}, {"1": ["!"]}, "punctuation"),
    ],
)
def test_bad_input(predictions, references, message):
    with pytest.raises(UserError, match=message):
        caption_scores(predictions, references, use_java=False)


def test_one_warning_without_java(monkeypatch):
    monkeypatch.setattr(tokenizers.shutil, "which", lambda name: None)
    predictions, references = corpus(3)
    with pytest.warns(UserWarning, match="Java not found") as caught:
        assert caption_scores(predictions, references).tokenizer == "PTB tokenizer (Python)"
    assert len(caught) == 1


@needs_java
def test_ptb_is_used_when_java_is_there_and_agrees(capfd):
    predictions, references = corpus(20)
    predictions["i0"] = predictions["i19"] = ""  # an empty first or last line must not shift the others
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        official = caption_scores(predictions, references)
    plain = caption_scores(predictions, references, use_java=False)
    assert official.tokenizer == "PTB tokenizer (Java)" and capfd.readouterr() == ("", "")
    assert (official.bleu4, official.cider) == (plain.bleu4, plain.cider)
    assert np.array_equal(official.bleu_counts, plain.bleu_counts)


def test_of_two_equally_close_references_the_shorter_counts():
    references = {"1": ["a b c", "a b c d e"], "2": ["a dog runs home"]}
    counts = caption_scores({"1": "a b c d", "2": "a dog runs"}, references, use_java=False).bleu_counts
    assert counts[:, 8:].tolist() == [[4, 3], [3, 4]]


def official(name, references, generated):
    """The score that pycocoevalcap's own class gives."""
    if name.startswith("bleu"):
        return Bleu(4).compute_score(references, generated, verbose=0)[0][int(name[-1]) - 1]
    return {"cider": Cider, "rouge_l": Rouge, "meteor": Meteor}[name]().compute_score(references, generated)[
        0
    ]


@pytest.mark.parametrize(
    "name",
    [
        "bleu1",
        "bleu2",
        "bleu3",
        "bleu4",
        "cider",
        "rouge_l",
        pytest.param("meteor", marks=[needs_java, pytest.mark.slow]),
    ],
)
def test_sums_of_statistics_give_the_official_score(name):
    predictions, references = corpus(40, seed=3)
    predictions["i3"], predictions["i7"] = "", "nothing in common"
    predictions["i9"] = references["i9"][2]  # METEOR counts a caption that is a reference apart
    scores = caption_scores(predictions, references, use_java=False, metrics=[name])
    assert set(scores.values) == set(scores.statistics) == {name}
    generated = {id: [text] for id, text in predictions.items()}
    expected = official(name, references, generated)
    assert scores.values[name] == expected
    assert METRICS[name].score(scores.statistics[name].sum(axis=0)) == pytest.approx(expected, abs=1e-9)
    if name == "cider":  # its weights are those of all examples
        return
    picks = np.random.default_rng(0).integers(40, size=25)
    ids = [list(references)[pick] for pick in picks]
    accepted = {k: references[id] for k, id in enumerate(ids)}
    expected = official(name, accepted, {k: generated[id] for k, id in enumerate(ids)})
    resampled = METRICS[name].score(scores.statistics[name][picks].sum(axis=0))
    assert resampled == pytest.approx(expected, abs=1e-9) and 0 < expected < 1


def test_a_task_gets_the_metrics_it_names():
    predictions, references = corpus(10)
    names = ("rouge_l", "bleu1", "bleu4")
    scores = caption_scores(predictions, references, use_java=False, metrics=names)
    assert tuple(scores.values) == names
    assert (
        scores.values["bleu1"]
        > scores.values["bleu4"]
        == caption_scores(predictions, references, False).bleu4
    )
    with pytest.raises(UserError, match=r"'blue4'; there are bleu1, .* spice"):
        caption_scores(predictions, references, use_java=False, metrics=["blue4"])


@pytest.mark.slow
@needs_java
def test_meteor_leaves_no_process_behind(monkeypatch):
    started = []
    monkeypatch.setattr(
        java_metrics, "_Recorded", lambda make=java_metrics._Recorded: started.append(make()) or started[-1]
    )
    predictions, references = corpus(3)
    predictions["i0"], references["i1"][0] = "a dog\r\n ||| here", "two\nlines ||| of text"
    caption_scores(predictions, references, metrics=["meteor"])
    assert started[0].meteor_p.returncode is not None and not started[0].lock.locked()


def test_meteor_without_java_and_with_one_that_fails(monkeypatch, tmp_path):
    predictions, references = corpus(3)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="METEOR needs Java"):
        caption_scores(predictions, references, use_java=False, metrics=["meteor"])
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'no class here' >&2\nexit 1\n")
    java.chmod(0o755)
    with pytest.raises(UserError, match="METEOR failed .no class here"):
        caption_scores(predictions, references, use_java=False, metrics=["meteor"])


def test_spice_is_not_downloaded_and_keeps_the_order_of_examples(monkeypatch, tmp_path):
    references = {"b": ["a dog"], "a": ["a cat"]}
    predictions = {"a": "a cat", "b": "a red dog"}
    monkeypatch.setattr(java_metrics.spice, "__file__", str(tmp_path / "spice.py"))
    with pytest.raises(UserError, match=r"stanford-corenlp-3\.6\.0\.jar"):
        caption_scores(predictions, references, use_java=False, metrics=["spice"])

    class Sorted:
        """Answers in the order of the ids, as the class does."""

        def compute_score(self, references, generated):
            return 0.5, [{"All": {"f": 1.0 if id == "a" else 0.25}} for id in sorted(references)]

    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "stanford-corenlp-3.6.0.jar").touch()
    monkeypatch.setattr(java_metrics.spice, "Spice", Sorted)
    scores = caption_scores(predictions, references, use_java=False, metrics=["spice"])
    assert scores.values == {"spice": 0.625} and scores.statistics["spice"][:, 0].tolist() == [0.25, 1.0]
