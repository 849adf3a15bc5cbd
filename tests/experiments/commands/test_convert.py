"""``attngraph convert``: what it prints, what it writes, and what it leaves alone."""

import json

import pytest

from experiments.cli import main
from tests.experiments.models.original.authors_blip import SIDE, WORDS, save_checkpoint

FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "run.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def checkpoint(tmp_path):
    return save_checkpoint(tmp_path / "here", "pretraining")


def convert(checkpoint, out, *more: str) -> int:
    return main(["convert", "blip", str(checkpoint), "--out", str(out), *map(str, more)])


def one_line(capsys) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("attngraph: ")
    return line


def test_what_is_printed_and_written(checkpoint, tmp_path, capsys):
    assert convert(checkpoint, tmp_path / "out") == 0
    shown = capsys.readouterr()
    assert shown.err == f"saved: {tmp_path / 'out'}\n"
    assert shown.out.startswith(f"{checkpoint}: captioner, image encoder and text decoder")
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES


def test_another_conversion_needs_another_folder(checkpoint, tmp_path, capsys):
    assert convert(checkpoint, tmp_path / "out") == 0
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    capsys.readouterr()
    for words, what in ((["--as", "vqa"], "arrangement"), (["--side", 2 * SIDE], "side")):
        assert convert(checkpoint, tmp_path / "out", *words) == 2
        assert f"another experiment (other {what})" in one_line(capsys)
    save_checkpoint(tmp_path / "here", "pretraining", seed=1)
    assert convert(checkpoint, tmp_path / "out") == 2
    assert "(other weights)" in one_line(capsys)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def test_a_failure_leaves_nothing(checkpoint, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("experiments.commands.convert.save_converted", full)
    assert convert(checkpoint, tmp_path / "out") == 2
    assert "No space left" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words, match",
    [
        (["--side", "7"], "side 7: the model sees patches of 4 pixels, so the side must be a multiple"),
        (["--tokenizer", "no/such"], "no/such: not the checkpoint's vocabulary"),
        (["--as", "whole"], "--as whole: BLIP has no such arrangement"),
    ],
)
def test_wrong_options_are_one_line(words, match, checkpoint, tmp_path, capsys):
    try:
        code = convert(checkpoint, tmp_path / "out", *words)
    except SystemExit as end:
        code = end.code
    assert code == 2 and match in one_line(capsys) and not (tmp_path / "out").exists()


def test_a_vocabulary_from_another_place(checkpoint, tmp_path):
    (checkpoint.parent / "vocab.txt").rename(tmp_path / "words.txt")
    assert convert(checkpoint, tmp_path / "out", "--tokenizer", tmp_path / "words.txt") == 0
    saved = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert saved["model"]["vocab"] == {word: place for place, word in enumerate(WORDS)}


@pytest.mark.parametrize("kind, other", [("vqa", "captioner"), ("caption", "vqa")])
def test_arrangements_that_a_file_does_not_give(kind, other, tmp_path, capsys):
    file = save_checkpoint(tmp_path, kind)
    assert convert(file, tmp_path / "out", "--as", other) == 2
    assert f"convert it --as {'vqa' if kind == 'vqa' else 'captioner'}" in one_line(capsys)
    assert not (tmp_path / "out").exists()
