"""The PTB tokenizer in Python against the Java program: pairs that it made, and itself where Java is."""

import gzip
import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.metrics.ptb import one_line, tokenize
from experiments.metrics.tokenizers import ptb_tokenize
from tests.experiments.metrics.ptb_cases import BREAKS, FIXTURE, captions, scene_captions

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Java not found")
texts = st.text(st.characters(), max_size=40)


def differences(texts, expected):
    return [(text, java, own) for text, java, own in zip(texts, expected, tokenize(texts)) if java != own]


def test_pairs_that_the_java_program_made():
    given, expected = zip(*json.loads(gzip.decompress(FIXTURE.read_bytes())), strict=True)
    assert len(given) > 3000
    assert differences(given, expected) == []


@needs_java
def test_captions_of_many_kinds():
    chosen = [*captions(4000, seed=2), *scene_captions(20)]
    assert differences(chosen, ptb_tokenize(chosen)) == []


@needs_java
@pytest.mark.slow
def test_sixty_thousand_captions_of_many_kinds_and_the_wordings_of_scenes():
    """A handful of the captions from random signs may differ; what people write does not."""
    chosen = list(scene_captions(3000))
    assert len(chosen) == 15_000 and differences(chosen, ptb_tokenize(chosen)) == []
    chosen = list(captions(60_000, seed=3))
    assert len(differences(chosen, ptb_tokenize(chosen))) <= 3


def test_tokens():
    given = {
        "A man's dog doesn't like 3.5 t-shirts; really!": "a man 's dog does n't like 3.5 t-shirts really",
        "U.S. and Mr. Smith, etc. in the street.": "u.s. and mr. smith etc. in the street",
        "(left) [right] {x} wow!!!": "-lrb- left -rrb- -lsb- right -rsb- -lcb- x -rcb- wow !!!",
        "½ £5 €3 “quoted” – cannot… 😀": "1/2 # 5 $ 3 quoted can not",
        "No. 5 is no. ": "no. 5 is no",
        "": "",
        " \u00a0 ": "",
        "!": "",
    }
    assert dict(zip(given, tokenize(list(given)), strict=True)) == given


@needs_java
def test_in_java_too_a_caption_does_not_depend_on_the_next():
    given = ["see no.", "5 dogs", 'a <b c="x', 'y"> z', "J.", "The end", "", "\u2028", "dog\ud83d x"]
    assert ptb_tokenize(given) == [ptb_tokenize([caption])[0] for caption in given] == tokenize(given)
    broken = [f"one{line_break}two" for line_break in BREAKS]
    assert ptb_tokenize([*broken, "last"]) == ["one two"] * len(broken) + ["last"]


@given(st.lists(texts, max_size=5))
def test_each_caption_alone_gives_its_tokens(captions):
    assert tokenize(captions) == [tokenize([caption])[0] for caption in captions]


@given(texts)
def test_any_text_gives_words_in_one_line(caption):
    (line,) = tokenize([caption])
    assert line == " ".join(line.split(" ")).strip(" ") and one_line(line) == line
    assert not {".", ",", "''", "``", "-"} & set(line.split(" "))


@given(texts, st.sampled_from(BREAKS), texts)
def test_a_line_break_is_a_space(before, line_break, after):
    if not (before.endswith("\r") or after.startswith("\n")):  # would be one break of two characters
        assert tokenize([before + line_break + after]) == tokenize([f"{before} {after}"])


@given(st.lists(st.from_regex("[a-z]{7,9}", fullmatch=True), max_size=8))
def test_words_stay(words):
    assert tokenize([" ".join(words)]) == [" ".join(words)]
