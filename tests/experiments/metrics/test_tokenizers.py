"""Caption tokens: the official tokenizer and its stand-in agree, and a Java that fails is one clear line."""

import os
import shutil

import pytest
from pycocoevalcap.tokenizer import ptbtokenizer

from attngraph.errors import UserError
from experiments.metrics.tokenizers import ptb_tokenize, regex_tokenize

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
