"""The official tokenizer: a Java that fails is one clear line, and nothing is written beside its jar."""

import os
import shutil

import pytest
from pycocoevalcap.tokenizer import ptbtokenizer

from attngraph.errors import UserError
from experiments.metrics.tokenizers import ptb_tokenize

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Java not found")


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
