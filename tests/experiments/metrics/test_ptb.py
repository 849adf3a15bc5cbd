"""The PTB tokenizer in Python against the Java program: pairs that it made, and itself where Java is."""

import gzip
import itertools
import json
import shutil
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from attngraph.errors import UserError
from attngraph.experiments.metrics.ptb import one_line, scan, tokenize, tokenize_java
from tests.experiments.metrics import ptb_probe
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
    chosen = [*captions(1500, seed=2), *scene_captions(20)]
    assert differences(chosen, tokenize_java(chosen)) == []


@needs_java
@pytest.mark.slow
def test_the_program_is_called_as_pycocoevalcap_calls_it():
    """Its class writes beside its jar, and lets a caption's tokens depend on the next one's beginning."""
    chosen = [one_line(caption) for caption in captions(3000, seed=4)]
    apart = {k: [{"caption": text}, {"caption": "\" ' ,"}] for k, text in enumerate(chosen) if text.strip()}
    theirs = PTBTokenizer().tokenize(apart)
    assert [theirs[k][0] for k in apart] == tokenize_java([chosen[k] for k in apart])


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
def test_java_that_does_not_start_or_fails_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs Java, which does not start .*remove it from the PATH"):
        tokenize_java(["a dog"])
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'no class here' >&2\nexit 1\n")
    java.chmod(0o755)
    with pytest.raises(UserError, match="failed .no class here"):
        tokenize_java(["a dog"])


@needs_java
@pytest.mark.slow
def test_sixty_thousand_captions_of_many_kinds_and_the_wordings_of_scenes():
    """A handful of the captions from random signs may differ; what people write does not."""
    chosen = list(scene_captions(3000))
    assert len(chosen) == 15_000 and differences(chosen, tokenize_java(chosen)) == []
    chosen = list(captions(60_000, seed=3))
    assert len(differences(chosen, tokenize_java(chosen))) <= 3


@needs_java
def test_what_stays_whole_and_what_does_not():
    whole = [text for texts, _ in ptb_probe.SHAPES.values() for text in texts]
    apart = [text for _, texts in ptb_probe.SHAPES.values() for text in texts]
    assert ptb_probe.whole([*whole, *apart]) == whole
    assert [text for text in [*whole, *apart] if len(scan(text)) == 1] == whole


#: A character, or two, at every kind of place.
PLACES = (
    "{0}{1} {0}a{1} a{0}{1}b 1{0}{1}2 A.{0}{1} a.b{0}{1}c '{0}{1} o'{0}{1} xo'{0}{1} ab'{0}{1} etc.{0}{1} "
    "mr.{0}{1} a@b{0}{1}c ab{0}{1}c@d.e http://a{0}{1} www.a{0}{1}b.com www.a.com/b{0}{1} ~{0}{1}~.com "
    '<a{0}b{1}> <a{0}b="c{1}"> #a{0}{1} @{0}{1}b ({0}_{1}) :{0}{1} 12{0}345{1}6789 (55){0}123{1}4567 '
    "5{0}1{1}2 A&B{0}{1} a-b{0}{1}c J.{0}The{1}x J.{0}Additionally{1} No.{0}5{1} can{0}not{1} a/b{0}{1}c "
    "1a.jpg{0}{1}x"
).split(" ")


@needs_java
@pytest.mark.slow
def test_every_pair_of_characters_at_every_kind_of_place():
    signs = [*string.punctuation, *"a0OsT ", "\x85", "\xa0", "\xad", "’", "é", "\u0301", "½"]
    pairs = list(itertools.product(signs, repeat=2))
    chosen = [place.format(*pair) for place in PLACES for pair in pairs]
    assert len(chosen) > 60_000 and differences(chosen, tokenize_java(chosen)) == []


@needs_java
@pytest.mark.slow
def test_what_was_observed_is_what_the_program_shows():
    """All words of up to three letters; of the longer ones, that those of the lists are right."""
    kept = json.loads(ptb_probe.OBSERVED.read_text(encoding="utf-8"))
    assert ptb_probe.characters() == kept["characters"] and ptb_probe.stops() == kept["stops"]
    found = ptb_probe.words(3, ptb_probe.known_words())
    assert {name: " ".join(lines).split() for name, lines in kept["words"].items()} == found


def test_tokens():
    given = {
        "A man's dog doesn't like 3.5 t-shirts; really!": "a man 's dog does n't like 3.5 t-shirts really",
        "U.S. and Mr. Smith, etc. in the street.": "u.s. and mr. smith etc. in the street",
        "(left) [right] {x} wow!!!": "-lrb- left -rrb- -lsb- right -rsb- -lcb- x -rcb- wow !!!",
        "½ £5 €3 “quoted” – cannot… 😀": "1/2 # 5 $ 3 quoted can not",
        "No. 5 is no. ": "no. 5 is no",
        "Figs. 2 and no figs.": "figs. 2 and no figs",
        "O'O! J. Additionally J.\x85The end": "o'o j additionally j the end",
        "1cafe\u0301.jpg treas.a": "1cafe\u0301.jpg treas.a",
        "ΟΔΟΣ ΟΔΟΣ-Α": "οδος οδοσ-α",
        "": "",
        " \u00a0 ": "",
        "!": "",
    }
    assert dict(zip(given, tokenize(list(given)), strict=True)) == given


@needs_java
def test_in_java_too_a_caption_does_not_depend_on_the_next():
    given = ["see no.", "5 dogs", 'a <b c="x', 'y"> z', "J.", "The end", "", "\u2028", "dog\ud83d x"]
    assert tokenize_java(given) == tokenize(given) == [tokenize([caption])[0] for caption in given]
    broken = [f"one{line_break}two" for line_break in BREAKS]
    assert tokenize_java([*broken, "last"]) == ["one two"] * len(broken) + ["last"]


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
